"""A model of fully_shard takes the steps of one process with the whole batch."""

import functools
import io

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from torch.nn import functional as F

from sharpkit.core.batch_norm import synchronise
from sharpkit.core.comm import ALONE
from sharpkit.core.task import Batch
from sharpkit.errors import SharpkitError
from tests.core.support import bits, net, numbered, sharp
from tests.distributed.launch import on_ranks, once
from tests.distributed.test_recipes import BATCHES, EVERY, part
from tests.recipes.test_precision_contract import drawing

FOUR = ["sgd", "sam", "asam", "sampa"]
RUNNING = [rule for rule in EVERY if "ssam" not in rule]
BASES = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01),
    "plain": lambda params: torch.optim.SGD(params, lr=0.1),
}
OPTIONS = {
    "clip": {"rule": "sam", "clip": 0.05},
    "accumulate": {"rule": "sampa", "accumulate": 3},
    "a rank without samples of a micro-batch": {"rule": "gsam", "accumulate": 8},
    "decay in the loss": {"rule": "asam", "base": "plain", "loss_decay": 0.1},
    "Adam": {"rule": "sampa", "base": "adamw"},
    "Nesterov": {"rule": "sampa+asam", "base": "nesterov"},
    "frozen": {"rule": "sam", "frozen": True},
    "part of the model": {"rule": "sam", "some": True},
    "looked at between": {"rule": "sampa", "looks": True},
    "only the model itself": {"rule": "sampa", "layers": False},
    "two gradients of a pass": {"rule": "sampa+bisam-tanh:rho=0.1"},
    "one gradient each of two losses": {"rule": "gsam+bisam-log:rho=0.1"},
    "tensor by tensor": {"rule": "looksam:scope=tensor"},
    "closure": {"rule": "sam", "closure": True},
}
CASES = {
    **{rule: {"rule": rule} for rule in RUNNING},
    **OPTIONS,
    "copies of shards": {"rule": "asam", "copies": True, "clip": 0.05},
}


def cut(model, layers=True, copies=False):
    """Shard every layer with parameters on its own, and the model."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copy", "shard")) if copies else None
    for layer in model:
        if layers and list(layer.parameters()):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def whole(tensors):
    return [(t.full_tensor() if hasattr(t, "full_tensor") else t.clone()).detach() for t in tensors]


class Run:
    """A model and its optimizer, sharded where there are ranks, and the batches of some steps."""

    def __init__(self, rule, comm=None, *, base="sgd", kind=None, layers=True, copies=False, sharded=True, **case):
        self.comm, self.case = comm, case
        flags = {key: case.pop(key, False) for key in ("frozen", "some", "looks", "closure")}
        self.flags = flags
        self.model = net(kind or ("batch-norm" if "sam-on" in rule else "mlp"))
        if flags["frozen"]:
            self.model[0].bias.requires_grad_(False)
        if comm is not None:
            if kind is None:
                synchronise(self.model, comm)
            if sharded:
                cut(self.model, layers, copies)
        params = list(self.model[2 if flags["some"] else 0 :].parameters())
        self.other = next(self.model.parameters())
        self.opt = sharp(rule, self.model, BASES[base](params), draw=drawing(torch.float64), comm=comm, **case)

    def given(self, t, size):
        batch = Batch(*numbered(BATCHES[size][t], seed=t))
        if self.flags["closure"]:  # on ranks they weigh alike, whatever they hold
            batch = Batch(batch.inputs[:8], batch.targets[:8], batch.indices[:8])
        return batch if self.comm is None else part(batch, self.comm, self.opt.rule.shards)

    def steps(self, size, start=0, end=None):
        torch.manual_seed(start)
        told = []
        for t in range(len(BATCHES[size]))[start:end]:
            batch = self.given(t, size)
            if self.flags["looks"]:
                with torch.no_grad():
                    self.model.eval()(numbered(3)[0])
                    self.model.train()
            report = self.opt.step(self.closure(batch) if self.flags["closure"] else batch)
            notes = {name: float(value) for name, value in report.notes.items()}
            counts = (report.forward_samples, report.backward_samples, report.gradients)
            told.append((float(report.loss), *((0,) if self.flags["closure"] else counts), notes))
        return told

    def closure(self, batch):
        def function():
            self.opt.zero_grad()
            loss = F.cross_entropy(self.model(batch.inputs), batch.targets)
            loss.backward()
            return loss

        return function

    def load(self, state, weights):
        with torch.no_grad():
            for p, value in zip(self.model.parameters(), weights, strict=True):
                p.copy_(distribute_tensor(value, p.device_mesh, p.placements) if self.comm else value)
        self.opt.load_state_dict(state)

    def found(self):
        buffers = [b.clone() for b in self.model.buffers()]
        return whole(self.model.parameters()) + buffers


def trained(rule, size, comm=None, **case):
    """The weights and buffers after some steps, in float64, and what was reported."""
    run = Run(rule, comm, **case)
    told = run.steps(size)
    assert not run.flags["some"] or run.other.grad is None
    return run.found(), told


def every_case(comm, names):
    return {
        name: trained(size=comm.size, comm=comm, **CASES[name]) if name in CASES else refusals(comm) for name in names
    }


def checkpoints(comm, of_one):
    return {rule: checkpoint(comm, rule, state) for rule, state in of_one.items()}


def checkpoint(comm, rule, of_one):
    """Weights after a run that was stored half-way and went on elsewhere, with the state that was stored."""
    straight, stopped, other, third = (Run(rule, comm) for _ in range(4))
    straight.steps(2)
    stopped.steps(2, end=3)
    state, weights = stopped.opt.state_dict(), whole(stopped.model.parameters())
    every = comm.agreed(state)
    other.load(every, weights)
    other.steps(2, start=3)
    third.load(*of_one)
    third.steps(2, start=3)
    return straight.found(), other.found(), third.found(), state, weights


def alike(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def values_of(name, group, size, shared):
    values = once(size, every_case, tuple(GROUPS[group]), folder=shared / f"{group}{size}")
    return [value[name] for value in values]


def check(name, group, size, shared):
    case = {key: value for key, value in CASES[name].items() if key not in ("layers", "copies")}
    expected = trained(size=size, **case)
    for value in values_of(name, group, size, shared):
        alike(value, expected)


GROUPS = {
    "short": [*FOUR, "refusals"],
    "rules": [rule for rule in RUNNING if rule not in FOUR],
    "cases": list(OPTIONS),
    "four": [*RUNNING, "a rank without samples of a micro-batch", "copies of shards"],
}


@pytest.mark.parametrize("rule", FOUR)
def test_sharded_parameters_are_one_process_with_the_whole_batch(rule, shared):
    check(rule, "short", 2, shared)


@pytest.mark.slow
@pytest.mark.parametrize("rule", GROUPS["rules"])
def test_every_recipe_but_sparse_ones_runs_on_shards(rule, shared):
    check(rule, "rules", 2, shared)


@pytest.mark.slow
@pytest.mark.parametrize("name", GROUPS["cases"])
def test_options_hold_on_shards(name, shared):
    check(name, "cases", 2, shared)


@pytest.mark.slow
@pytest.mark.parametrize("name", GROUPS["four"])
def test_four_ranks_some_without_a_row_are_one_process(name, shared):
    check(name, "four", 4, shared)


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


STORED = [*FOUR, "sampa+msam:rho=0.1", "vasso", "looksam", "mesa:start=-1"]


@functools.cache
def stored_runs(tmp):
    of_one = {}
    for rule in STORED:
        stopped = Run(rule)
        stopped.steps(2, end=3)
        of_one[rule] = stopped.opt.state_dict(), whole(stopped.model.parameters())
    return on_ranks(2, checkpoints, of_one, folder=tmp / "checkpoints")


@pytest.mark.slow
@pytest.mark.parametrize("rule", STORED)
def test_a_checkpoint_of_shards_is_one_of_one_process_and_back(rule, tmp):
    one = Run(rule)
    one.steps(2)
    values = [value[rule] for value in stored_runs(tmp)]
    for straight, other, third, _, _ in values:
        assert bits(other) == bits(straight)
        alike(straight, one.found())
        alike(third, one.found())
    assert values[1][3] == {}
    state = torch.load(saved(values[0][3]), weights_only=True)
    again = Run(rule)
    again.load(state, values[0][4])
    again.steps(2, start=3)
    alike(again.found(), one.found())


BESIDE = {
    "batch norm of every rank": {"rule": "sampa", "kind": "batch-norm"},
    "dropout": {"rule": "sam", "kind": "dropout"},
    "bf16": {"rule": "sam", "precision": "bf16"},
    "fp16": {"rule": "sampa", "precision": "fp16"},
}


def beside(comm):
    """What shards and whole parameters on the same ranks give."""
    return {
        name: [trained(size=comm.size, comm=comm, sharded=sharded, **case) for sharded in (True, False)]
        for name, case in BESIDE.items()
    }


@pytest.mark.slow
def test_shards_are_whole_parameters_on_the_same_ranks(tmp):
    for value in on_ranks(2, beside, folder=tmp / "beside"):
        for sharded, replicated in value.values():
            alike(sharded, replicated)


def refused(build):
    try:
        build()
    except SharpkitError as error:
        return str(error)
    return ""


def refusals(comm):
    early, partly, whole_model = net(), net(), cut(net())
    base = torch.optim.SGD(early.parameters(), lr=0.1)
    cut(early)
    fully_shard(partly[0])
    opt = sharp("sam", whole_model, comm=comm)
    alone, spread = net(), cut(net())
    stored = sharp("sam", alone, torch.optim.Adafactor(alone.parameters()), comm=ALONE)
    stored.step(numbered(8))
    builds = {
        "base before": lambda: sharp("sam", early, base, comm=comm),
        "part": lambda: sharp("sam", partly, comm=comm),
        "no ranks": lambda: sharp("sam", whole_model, comm=ALONE),
        "local": lambda: sharp("sam", whole_model, comm=comm, ascent_scope="local"),
        "sparse": lambda: sharp("ssam-d+sampa:rho=0.1", whole_model, comm=comm),
        "nothing": lambda: opt.load_state_dict({}),
        "synchronised after": lambda: synchronise(cut(net("batch-norm")), comm),
        "factors": lambda: sharp("sam", spread, torch.optim.Adafactor(spread.parameters()), comm=comm).load_state_dict(
            stored.state_dict()
        ),
    }
    return {name: refused(build) for name, build in builds.items()}


def test_what_cannot_be_sharded_is_refused_in_one_line(shared):
    for said in values_of("refusals", "short", 2, shared):
        assert "after fully_shard(model)" in said["base before"]
        assert "2.weight is not sharded" in said["part"]
        assert "over 2 ranks, and comm has 1" in said["no ranks"]
        assert "ascent_scope is local" in said["local"]
        assert "ssam-d+sampa needs whole_tensors" in said["sparse"]
        assert "on rank 0" in said["nothing"]
        assert "before fully_shard" in said["synchronised after"]
        assert "row_var" in said["factors"]
        assert all("\n" not in line for line in said.values())
