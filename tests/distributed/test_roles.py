"""The two gradients of SAMPa on two ranks are those of one process in turn, and so is all that a step leaves behind."""

import copy

import pytest
import torch

from sharpkit.core.batch_norm import synchronise
from sharpkit.core.comm import ALONE, Ranks
from sharpkit.core.message import describe, described, pack, room, unpack
from sharpkit.core.replicas import checksum
from sharpkit.core.task import Batch
from sharpkit.errors import ReplicaError, UsageError
from tests.core.support import batch, bits, net, numbered, sharp, weights
from tests.distributed.launch import on_ranks, once
from tests.distributed.test_recipes import BATCHES, part
from tests.recipes.test_precision_contract import drawing

BASES = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adamw without decay": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0),
    "one too many": lambda p: torch.optim.SGD([torch.nn.Parameter(torch.ones(2)), *p], 0.1, 0.9, weight_decay=1e-3),
}
CASES = {
    "sampa": ("sampa", "dropout", "momentum", {}),
    "lam=0": ("sampa:lam=0", "dropout", "nesterov", {}),
    "lam=1": ("sampa:lam=1", "batch-norm", "momentum", {}),
    "plain look-ahead, float32": ("sampa:y_step=plain", "dropout", "adamw", {"dtype": torch.float32}),
    "adamw": ("sampa", "dropout", "adamw", {}),
    "asam": ("sampa+asam", "batch-norm", "adamw", {}),
    "msam": ("sampa+msam:rho=0.1:m=2", "dropout", "momentum", {}),
    "bisam": ("sampa+bisam-tanh:rho=0.1", "dropout", "momentum", {}),
    "vasso": ("sampa+vasso:rho=0.1", "dropout", "momentum", {}),
    "fisher-sam": ("sampa+fisher-sam", "mlp", "momentum", {}),
    "ssam-f": ("sampa+ssam-f:nf=8", "mlp", "momentum", {}),
    "saf": ("sampa+saf:start=0:lag=1", "dropout", "momentum", {}),
    "mesa": ("sampa+mesa:start=-1", "batch-norm", "momentum", {}),
    "micro-batches": ("sampa", "dropout", "momentum", {"accumulate": 3}),
    "perturbed statistics": ("sampa", "dropout", "momentum", {"bn_stats": "perturbed"}),
    "decay in the loss, clipped": ("sampa", "dropout", "adamw without decay", {"loss_decay": 1e-3, "clip": 0.1}),
    "a parameter that no loss reaches": ("sampa", "mlp", "one too many", {}),
    "fp16": ("sampa", "mlp", "momentum", {"precision": "fp16", "dtype": torch.float32}),
}


def prepared(case, **options):
    rule, kind, base, own = CASES[case]
    own = dict(own)
    dtype = own.pop("dtype", torch.float64)
    model = net(kind, dtype=dtype)
    opt = sharp(rule, model, BASES[base](model.parameters()), draw=drawing(dtype), **own, **options)
    return model, opt, dtype


def stepped(opt, dtype, numbers):
    told = []
    for t in numbers:
        report = opt.step(numbered(8 + (t == 3), seed=t, dtype=dtype))
        told.append((report.loss, report.outputs, dict(report.notes), report.backward_samples, report.dropped))
    return told


def left(model, opt, told):
    """All that some steps leave, as comparable plain data; which gradients ran in sequence apart."""
    state = opt.state_dict()
    sequential = state["totals"].pop("sequential")
    return bits([model.state_dict(), state, told, torch.get_rng_state()]), sequential


def run(case, **options):
    model, opt, dtype = prepared(case, **options)
    torch.manual_seed(3)
    return left(model, opt, stepped(opt, dtype, range(5)))


def every_case(comm):
    _, pair = comm.pairs()
    return {case: run(case, pair=pair) for case in CASES}


def torn(comm):
    """What each rank says of replicas before and after one weight of rank 1 moves by one unit in the last place."""
    data, pair = comm.pairs()
    model, opt, dtype = prepared("sampa", comm=data, pair=pair)
    said = []
    for spoil in (lambda: None, lambda: nudge(model[5].weight), lambda: torch.manual_seed(comm.rank)):
        torch.manual_seed(3)
        stepped(opt, dtype, range(2))
        if comm.rank == comm.size - 1:
            spoil()
        try:
            opt.check_replicas()
            said.append("")
        except ReplicaError as error:
            said.append(error.message)
        with torch.no_grad():
            comm.broadcast_([p.data for p in model.parameters()])
    return said


def nudge(weight):
    with torch.no_grad():
        weight[0, 0] = torch.nextafter(weight[0, 0], weight[0, 0] + 1)


def resumed(comm):
    """The state after three steps of a pair, and what it comes to when the pair goes on from it."""
    _, pair = comm.pairs()
    model, opt, dtype = prepared("sampa", pair=pair)
    torch.manual_seed(3)
    stepped(opt, dtype, range(3))
    kept = model.state_dict(), opt.state_dict(), torch.get_rng_state()
    kept = copy.deepcopy(kept)
    return kept, left(model, opt, stepped(opt, dtype, (3, 4)))


def two(comm):
    return every_case(comm), torn(comm), resumed(comm)


def found(shared):
    return once(2, two, folder=shared / "two")


@pytest.mark.parametrize("case", CASES)
def test_a_pair_of_ranks_is_one_process_bit_for_bit(case, shared):
    expected, sequential = run(case)
    for cases, _, _ in found(shared):
        got, beside = cases[case]
        assert got == expected
        assert beside < sequential


def test_one_process_counts_one_gradient_a_step_in_sequence(shared):
    """The first step has one, every later one two; bisam's look-ahead point has two of its own beside one."""
    for cases, _, _ in found(shared):
        assert cases["sampa"][1] == 5
        assert cases["bisam"][1] == 10
    assert run("sampa")[1] == 9
    assert run("bisam")[1] == 14


def test_replicas_that_differ_in_one_bit_are_told_by_rank_and_name(shared):
    for _, said, _ in found(shared):
        assert said == [
            "",
            "rank 1 no longer agrees with rank 0: weight 5.weight",
            "rank 1 no longer agrees with rank 0: torch's random state",
        ]


def test_a_state_of_a_pair_goes_on_in_one_process(shared):
    for _, _, (kept, expected) in found(shared):
        model, opt, dtype = prepared("sampa")
        model.load_state_dict(kept[0])
        opt.load_state_dict(kept[1])
        torch.set_rng_state(kept[2])
        assert left(model, opt, stepped(opt, dtype, (3, 4)))[0] == expected[0]


# ---------------------------------------------------------------------- pairs on parts of the batch

RULES = ["sampa", "sampa:lam=0", "sampa+asam", "sampa+msam:rho=0.1:m=2", "sampa+fisher-sam"]


def trained(rule, scope, roles=None, **options):
    kind = "batch-norm" if scope == "global" else "mlp"
    model = net(kind)
    data, pair = roles or (None, None)
    if data is not None and scope == "global":
        synchronise(model, data)
    opt = sharp(rule, model, draw=drawing(torch.float64), comm=data, pair=pair, ascent_scope=scope, **options)
    torch.manual_seed(0)
    losses = []
    for t, count in enumerate(BATCHES[2]):
        given = numbered(count, seed=t)
        report = opt.step(given if data is None else part(Batch(*given), data, opt.rule.shards))
        losses.append((float(report.loss), report.gradients))
    opt.check_replicas()
    return weights(model), [b.clone() for b in model.buffers()], losses


def parts_of_pairs(comm):
    roles = comm.pairs()
    assert (roles[0].rank, roles[1].rank) == divmod(comm.rank, 2)
    both = {(rule, "global"): trained(rule, "global", roles) for rule in RULES}
    return {**both, ("sampa", "local"): trained("sampa", "local", roles)}


@pytest.mark.slow
def test_two_pairs_are_one_process_with_the_whole_batch(tmp):
    values = on_ranks(4, parts_of_pairs, folder=tmp / "four")
    for rule in RULES:
        expected = trained(rule, "global")
        for value in values:
            torch.testing.assert_close(value[rule, "global"], expected, rtol=1e-12, atol=1e-12)
    two_ranks = on_ranks(2, local_scope, folder=tmp / "local")
    for value in values:
        torch.testing.assert_close(value["sampa", "local"], two_ranks[0], rtol=1e-12, atol=1e-12)
    for role in (0, 1):
        assert bits(values[role]) == bits(values[2 + role])


def local_scope(comm):
    return trained("sampa", "local", (comm, ALONE))


# ---------------------------------------------------------------------- messages and checksums


def test_a_message_gives_every_tensor_back_bit_for_bit_in_its_memory_format():
    filters = torch.randn(3, 4, 2, 2).contiguous(memory_format=torch.channels_last)
    given = [
        *(torch.randn(5, dtype=torch.float64), filters, torch.tensor(7), torch.rand(3) > 0.5, torch.zeros(0, 3)),
        *(torch.randn(7).to(torch.bfloat16), torch.randn(6, 2).T, torch.tensor([float("nan"), -0.0])),
    ]
    message = pack(given, given, torch.device("cpu"))
    assert message.shape == room(given, torch.device("cpu")).shape
    back = unpack(message, given)
    assert bits(back) == bits(given)
    assert [t.stride() for t in back[:-2]] == [t.stride() for t in given[:-2]]
    starts = [t.data_ptr() for t in back if t.numel()]
    assert len(set(starts)) == len(starts)
    assert all((start - starts[0]) % 64 == 0 for start in starts)
    told = [described(describe(t)) for t in given]
    assert [(t.dtype, t.shape) for t in told] == [(t.dtype, t.shape) for t in given]
    assert described(describe(None)) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_checksum_is_that_of_the_definition_and_sees_every_bit(dtype):
    tensor = (torch.randn(3, 700, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    size = tensor.element_size()
    integers = [int.from_bytes(raw[i : i + size], "little", signed=size > 1) for i in range(0, len(raw), size)]
    expected = sum((2 * (i % 1024) + 1) * b for i, b in enumerate(integers)) % 2**64
    assert checksum(tensor) % 2**64 == expected
    assert checksum(tensor.T.contiguous().T) == checksum(tensor)
    swapped = tensor.clone()
    swapped[0, 0], swapped[0, 1] = ~tensor[0, 0] if dtype == torch.bool else tensor[0, 1] + 1, tensor[0, 0]
    assert checksum(swapped) != checksum(tensor)


# ---------------------------------------------------------------------- what is refused


class TwoRanks:
    rank, size = 0, 2


@pytest.mark.parametrize("way", [{"pair": TwoRanks()}, {"streams": True}])
@pytest.mark.parametrize(
    ("rule", "options", "words"),
    [
        ("sam", {}, "the gradients of sam depend on each other"),
        ("sgd", {}, "the gradients of sgd depend on each other"),
        ("sampa", {"rng": "fresh"}, "rng is 'fresh'"),
        ("sampa", {"bn_stats": "both"}, "bn_stats is 'both'"),
    ],
)
def test_what_cannot_run_at_once_is_refused(way, rule, options, words):
    with pytest.raises(UsageError, match=words):
        sharp(rule, net(), **way, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"streams": True, "precision": "fp16"}, "fp16"),
        ({"streams": True, "pair": TwoRanks()}, "streams"),
        ({"streams": True, "comm": TwoRanks()}, "streams"),
    ],
)
def test_streams_are_for_one_process(options, words):
    with pytest.raises(UsageError, match=words):
        sharp("sampa", net(), **options)


def test_an_odd_number_of_ranks_has_no_pairs():
    three = object.__new__(Ranks)
    three.rank, three.size = 0, 3
    with pytest.raises(UsageError, match="3 ranks cannot be parted into pairs, allowed is an even number"):
        three.pairs()


# ---------------------------------------------------------------------- streams


@pytest.mark.parametrize("case", [case for case in CASES if case != "fp16"])
def test_weights_of_their_own_give_what_weights_in_turn_give(case):
    """On the CPU there are no streams, but the passes have tensors of their own as on an accelerator."""
    model, opt, dtype = prepared(case, streams=True)
    places = [p.data_ptr() for p in model.parameters()] + [b.data_ptr() for b in model.buffers()]
    torch.manual_seed(3)
    assert left(model, opt, stepped(opt, dtype, range(5)))[0] == run(case)[0]
    assert [p.data_ptr() for p in model.parameters()] + [b.data_ptr() for b in model.buffers()] == places


def test_no_pass_writes_to_the_weights_or_to_buffers_that_another_reads():
    """What kernels of one pass may still read while the next one is issued is not written to: the weights at w too."""
    model, opt, _ = prepared("sampa", streams=True)
    opt.step(batch())
    held = [p.data for p in model.parameters()]
    versions = [t._version for t in held]
    seen = []
    model[0].register_forward_pre_hook(
        lambda *_: seen.append(
            (
                [p.data_ptr() for p in model.parameters()],
                [b.data_ptr() for b in model.buffers()],
                [t._version for t in held],
            )
        )
    )
    opt.step(batch(seed=1))
    (first, statistics, before), (second, others, between) = seen
    assert not set(first) & set(second)
    assert not {t.data_ptr() for t in held} & {*first, *second}
    assert not set(statistics) & set(others)
    assert before == between == versions


def test_a_pass_that_raises_leaves_weights_and_buffers_in_their_places():
    model, opt, _ = prepared("sampa", streams=True)
    opt.step(batch())
    before = bits(model.state_dict()), [p.data_ptr() for p in model.parameters()], [id(b) for b in model.buffers()]
    with pytest.raises(RuntimeError):
        opt.step((torch.zeros(4, 9, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)))
    after = bits(model.state_dict()), [p.data_ptr() for p in model.parameters()], [id(b) for b in model.buffers()]
    assert before == after


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["sampa", "lam=0", "asam", "msam", "bisam"])
def test_streams_of_a_gpu_give_what_weights_in_turn_give(case):
    ends = []
    for streams in (False, True):
        rule, kind, base, _ = CASES[case]
        model = net(kind).cuda()
        opt = sharp(rule, model, BASES[base](model.parameters()), streams=streams)
        torch.manual_seed(3)
        for t in range(20):
            x, y = batch(64, seed=t)
            opt.step((x.cuda(), y.cuda()))
        ends.append([*weights(model), *(b.clone() for b in model.buffers())])
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-12, atol=1e-12)
