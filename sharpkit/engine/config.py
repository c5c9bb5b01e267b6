"""The configuration of a training run: every option once, with its type, default and help.

The command line, the configuration file, the environment variables and the documentation are derived from it. This
module does not import torch, so that `--help` answers at once.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sharpkit.engine.augmentation import KINDS, parse_augmentation
from sharpkit.engine.probe_names import probe_names
from sharpkit.engine.world import TIMEOUT
from sharpkit.errors import UsageError, check_count, check_range

_MOST_THREADS = 1024


def option(
    default: Any,
    help: str,  # noqa: A002
    *flags: str,
    shown: str | None = None,
    completions: tuple[str, ...] = (),
) -> Any:
    """Declare a field that is an option.

    Args:
        default: Its default value.
        help: One line for people.
        flags: Further names on the command line, such as `-b`.
        shown: How the default is shown where the value itself does not say it.
        completions: Values that a shell completes, of a text that may have others.
    """
    return field(default=default, metadata={"help": help, "flags": flags, "shown": shown, "completions": completions})


MAY_DIFFER = ("device", "threads", "workers", "data_dir", "download", "timeout")
"""What a run may go on with otherwise than it began: where it runs, and where its data are."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides what a training run computes.

    `preset` only tells where values came from; `presets.configured` puts them here.

    Raises:
        UsageError: If a value is outside its range.
    """

    opt: str = option("sam", "Optimizer: NAME[+NAME...][:key=value]..., see `sharpkit ls opts`.")
    base: str = option("sgd", "Base optimizer: sgd, adam, adamw or module:Class.")
    rho: float | None = option(None, "Radius, short for :rho= in --opt.", shown="the recipe's")
    rho_sched: Literal["constant", "with-lr", "warm-up"] = option("constant", "How the radius changes over the run.")
    rho_warmup_epochs: float | None = option(None, "Epochs of linear warm-up of the radius.", shown="none")
    lr: float | None = option(None, "Learning rate.", shown="0.1 for sgd, else 0.001")
    wd: float = option(5e-4, "Weight decay of the base optimizer.")
    wd_in_loss: bool = option(False, "Weight decay as a part of the loss, hence of the perturbation.")
    momentum: float = option(0.9, "Momentum of sgd.")
    nesterov: bool = option(False, "Nesterov momentum of sgd.")
    data: str = option(
        "digits", "Data set: a name from `sharpkit ls data`, a folder of images or texts, FILE.tsv or file.py:function."
    )
    data_dir: str = option("~/.cache/sharpkit", "Folder that data sets are looked for in and downloaded to.")
    download: bool = option(False, "Download the data set if it is missing.")
    label_noise: float = option(0.0, "Fraction of training labels that are replaced by another class.")
    noise_kind: Literal["symmetric", "asymmetric"] = option(
        "symmetric", "Label noise: any other class, or the one that the class is mistaken for."
    )
    val_frac: float = option(0.1, "Fraction of the training data held out for validation.")
    augment: str = option(
        "auto",
        "Augmentation of training images: auto, none, basic or cutout[:size=PIXELS][:prob=P].",
        completions=KINDS,
    )
    limit: int | None = option(None, "Use only so many training samples.", shown="all")
    max_length: int = option(128, "Tokens of a text or pair of texts; of a longer one the end is cut off.")
    model: str = option(
        "auto", "Model: a name from `sharpkit ls models`, torchvision:NAME, timm:NAME, hf:DIR or file.py:function."
    )
    init: str | None = option(
        None, "Start from the weights of this checkpoint, run directory, state_dict or .safetensors.", shown="random"
    )
    partial: bool = option(False, "Load from --init what fits in name and shape, and leave out the rest.")
    trust_checkpoint: bool = option(False, "Run the code that the --init file needs to be read.")
    epochs: int = option(20, "Passes over the training data.")
    batch_size: int = option(128, "Samples a step.", "-b")
    sched: Literal["cosine", "step", "const"] = option("cosine", "Learning-rate schedule.")
    warmup_epochs: float = option(0.0, "Epochs of linear warm-up of the learning rate.")
    smoothing: float = option(0.0, "Label smoothing: probability that is taken from the labelled class.")
    smoothing_over: Literal["all", "others"] = option(
        "all", "Classes that --smoothing is spread over: all K, as in PyTorch, or the K - 1 others."
    )
    clip: float | None = option(None, "Largest norm of the final gradient.", shown="no clipping")
    accum: int = option(1, "Micro-batches a batch is cut into; the gradient is the whole batch's.")
    amp: Literal["off", "bf16", "fp16"] = option("off", "Mixed precision.")
    tf32: bool = option(False, "Round the factors of float32 products to TF32 on a GPU, for speed.")
    rng: Literal["same", "fresh"] = option("same", "Dropout masks of a step's second pass.")
    bn_stats: Literal["clean", "perturbed", "both"] = option(
        "clean", "Passes whose batch-norm statistics are kept; plain steps keep those of their only pass."
    )
    save_every: str = option("last", "Checkpoints kept: last, best (by validation), or one every N epochs.")
    probe: str | None = option(
        None, "Measure on the way: a list of grad-norm,grad-var,full-grad,xy-grad,cosine,lambda-max,sharpness.",
        shown="nothing",
    )  # fmt: skip
    probe_every: int | None = option(None, "Steps between two measurements.", shown="those of an epoch")
    probe_samples: str = option("all", "Training samples that are measured with: a number, or all.")
    probe_rho: float = option(0.05, "Distance of --probe sharpness.")
    ascent_scope: Literal["global", "local"] = option(
        "global", "Of several processes: climb the gradient of the whole batch, or each that of its own part."
    )
    sync_bn: bool = option(False, "Batch norm over the samples of all processes.")
    sampa_devices: Literal["auto", "1", "2"] = option(
        "auto", "Of several processes: on how many SAMPa computes its two gradients; auto is 2 of an even number."
    )
    sampa_streams: bool = option(False, "Compute SAMPa's two gradients at once on one GPU, on two streams.")
    timeout: float = option(TIMEOUT, "Seconds that a process waits for another, at most.")
    seed: int = option(0, "Seed of weights, data order, noise, augmentation and the rule.")
    device: str = option("auto", "Device: auto, cpu, cuda, cuda:1, mps.")
    threads: str = option("auto", "CPU threads; auto measures one against all and says which.")
    workers: str = option("auto", "Processes that read image files; 0 for none, auto for one a CPU, 16 at most.")
    compile: bool = option(False, "Run the training passes through torch.compile.")
    cuda_graphs: bool = option(False, "Replay compiled passes from CUDA graphs, with --compile on a CUDA device.")
    channels_last: Literal["auto", "on", "off"] = option(
        "auto", "Memory format of images; auto measures it on a CPU and says which."
    )
    deterministic: bool = option(False, "Only deterministic algorithms; slower on a GPU.")
    preset: str | None = option(
        None, "Settings of a paper, PAPER/DATASET/MODEL, see `sharpkit ls presets`.", shown="none"
    )

    def __post_init__(self) -> None:
        probe_names(self.probe)
        check_count("probe-samples", self.probe_samples, "all")
        check_range("probe-rho", self.probe_rho, 0, open_low=True)
        if self.probe_every is not None:
            check_range("probe-every", self.probe_every, 1)
            if self.probe is None:
                raise UsageError("probe-every is given, and there is no --probe", "give --probe grad-norm, for example")
        check_range("label-noise", self.label_noise, 0, 1)
        check_range("val-frac", self.val_frac, 0, 1, open_high=True)
        parse_augmentation(self.augment)
        check_range("max-length", self.max_length, 4)
        check_range("epochs", self.epochs, 1)
        check_range("batch-size", self.batch_size, 1)
        check_range("warmup-epochs", self.warmup_epochs, 0, self.epochs)
        check_range("smoothing", self.smoothing, 0, 1, open_high=True)
        check_range("accum", self.accum, 1)
        check_range("wd", self.wd, 0)
        if self.sync_bn and self.ascent_scope == "local":
            raise UsageError(
                "sync-bn is set and ascent-scope is local, where every process climbs without the others",
                "leave one of them out",
            )
        check_range("momentum", self.momentum, 0, 1, open_high=True)
        check_process(self.seed, self.threads, self.timeout)
        for name, value in (("lr", self.lr), ("clip", self.clip), ("limit", self.limit)):
            if value is not None:
                check_range(name, value, 0, open_low=True)
        if self.rho is not None:
            check_range("rho", self.rho, 0)
        if self.rho_warmup_epochs is not None:
            check_range("rho-warmup-epochs", self.rho_warmup_epochs, 0, self.epochs, open_low=True)
        if (self.rho_sched == "warm-up") != (self.rho_warmup_epochs is not None):
            raise UsageError(
                f"rho-sched is {self.rho_sched} and rho-warmup-epochs is {self.rho_warmup_epochs or 'not given'}",
                "give --rho-sched warm-up and --rho-warmup-epochs together",
            )
        for name, value, default in (("nesterov", self.nesterov, False), ("momentum", self.momentum, 0.9)):
            if self.base in ("adam", "adamw") and value != default:
                raise UsageError(f"{name} is {value} and base is {self.base}, which has none", f"leave --{name} out")
        for name, value in (("partial", self.partial), ("trust-checkpoint", self.trust_checkpoint)):
            if value and self.init is None:
                raise UsageError(
                    f"{name} is set, and there is no --init to load", f"give --init, or leave --{name} out"
                )
        if self.smoothing_over != "all" and not self.smoothing:
            raise UsageError(
                f"smoothing-over is {self.smoothing_over} and smoothing is 0", "give --smoothing 0.1, for example"
            )
        if self.nesterov and self.momentum == 0:
            raise UsageError("nesterov is set and momentum is 0", "give --momentum 0.9")
        check_count("workers", self.workers, "auto", low=0, high=_MOST_THREADS)
        check_count("save-every", self.save_every, "last", "best")


def check_process(seed: int, threads: str, timeout: float) -> None:
    """Refuse what no process can be given, of the options that all commands have.

    Raises:
        UsageError: If a value is outside its range.
    """
    check_range("seed", seed, 0, 2**31 - 1)
    check_range("timeout", timeout, 0, 10**6, open_low=True)
    check_count("threads", threads, "auto", high=_MOST_THREADS)


def with_radius(opt: str, rho: float | None) -> str:
    """Return --opt with --rho written into it.

    Raises:
        UsageError: If both give a radius.
    """
    if rho is None:
        return opt
    if ":rho=" in opt.replace(" ", ""):
        raise UsageError(f"--rho {rho:g} and --opt {opt} both give a radius", "give one of them")
    return f"{opt}:rho={rho!r}"


def options(of: type[Any] = TrainConfig) -> dict[str, Field[Any]]:
    """Return the fields of a configuration by name."""
    return {f.name: f for f in fields(of)}


def kinds(of: type[Any] = TrainConfig) -> dict[str, Any]:
    """Return the type of every field, resolved."""
    return get_type_hints(of)


def from_mapping(values: Mapping[str, Any], where: str, of: type[Any] = TrainConfig) -> dict[str, Any]:
    """Check the names and types of options from a file.

    Args:
        values: Option names, with `-` or `_`, and values; None means not given.
        where: What to call the file in messages.
        of: The configuration that the options are of.

    Raises:
        UsageError: If a name is unknown or a value has the wrong type.
    """
    known = kinds(of)
    checked: dict[str, Any] = {}
    for raw, value in values.items():
        name = raw.replace("-", "_")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            guess = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(known)}"
            raise UsageError(f"{where} sets unknown option {raw!r}", guess)
        if name in checked:
            raise UsageError(f"{where} sets {raw!r} twice, once as {name!r}", "leave one of them out")
        if value is not None:
            checked[name] = _typed(name, value, known[name], where)
    return checked


def to_mapping(config: Any) -> dict[str, Any]:
    """Return every option that is set, as plain values that TOML and JSON hold."""
    return {name: value for name, value in asdict(config).items() if value is not None}


def _typed(name: str, value: Any, kind: Any, where: str) -> Any:
    allowed = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for candidate in allowed:
        if get_origin(candidate) is Literal and value in get_args(candidate):
            return value
        if candidate is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if candidate in (int, bool, str) and type(value) is candidate:
            return value
        if candidate is str and type(value) is int:
            return str(value)
    names = [str(getattr(a, "__name__", a)) if get_origin(a) is not Literal else "|".join(get_args(a)) for a in allowed]
    wanted = " or ".join(n for n in names if n != "NoneType")
    raise UsageError(f"{where} sets {name} to {value!r}, allowed is {wanted}", f"correct {name}")
