"""The job's settings, validated once and frozen, and their fingerprint.

Every field is an option of the command line (dashes for underscores) and a key of
``--config job.yaml``. The fields of the optimisation have their rules and defaults in
`nstray.engine.settings`. This module adds images, layout and the run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from importlib.metadata import version
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from nstray.engine.presets import preset
from nstray.engine.settings import (
    NAMED_WEIGHTS,
    Color,
    ColorMatch,
    Dtype,
    LossScale,
    Optimizer,
    Pooling,
    StyleStatistic,
    StylizeConfig,
    ValueRange,
    check,
    check_layer_weights,
    check_terms,
)
from nstray.errors import ConfigError
from nstray.text import did_you_mean

SizeRule = Literal["longest", "shortest", "area", "exact"]
ImageFormat = Literal["png", "jpeg", "webp", "tiff"]
Device = Literal["auto", "cpu", "cuda"]
WeightsInput = Literal["auto", "rgb", "bgr"]

VERSION = version("nstray")

ORIGINAL = "original"  # the size of a picture that keeps its own
AUTO = "auto"  # the shard size that nstray chooses when a job begins
MOST_PER_SHARD = 65_536

_D = StylizeConfig()


def _rule(name: str) -> AfterValidator:
    return AfterValidator(lambda value: check(name, value))


def _split(value: Any) -> Any:
    return [v for v in value.split(",") if v.strip()] if isinstance(value, str) else value


def _size(value: Any) -> int | str:
    """A size: ``512``, ``original`` or, for ``size_rule: exact``, ``640x480`` (width x height)."""
    text = str(value).strip().lower()
    if text == ORIGINAL:
        return ORIGINAL
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if isinstance(value, bool) or not match:
        raise ValueError(
            "must be a number of pixels (512), original (each picture's own size) or "
            f"WIDTHxHEIGHT (640x480); got {value!r}"
        )
    sides = [int(s) for s in match.groups() if s]
    if not all(1 <= s <= 65_536 for s in sides):
        raise ValueError(f"each side must be from 1 to 65536 pixels; got {value!r}")
    return sides[0] if len(sides) == 1 else f"{sides[0]}x{sides[1]}"


def _shard_size(value: Any) -> int | str:
    """A shard size: ``auto``, or a number of pairs."""
    text = str(value).strip().lower()
    if text == AUTO:
        return AUTO
    number = int(text) if re.fullmatch(r"\d{1,9}", text) else 0
    if isinstance(value, bool) or not 1 <= number <= MOST_PER_SHARD:
        raise ValueError(f"must be auto or from 1 to {MOST_PER_SHARD} pairs; got {value!r}")
    return number


def _numbers(value: Any) -> Any:
    return [value] if isinstance(value, int | float) else _split(value)


# What `column_types` may name, as Hugging Face and Arrow spell it.
COLUMN_TYPES = (
    *("string", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float32", "float64", "date32", "timestamp[us]"),
)


def _column_types(value: Any) -> Any:
    """``NAME=TYPE`` of each column, sorted, from text, a list or a mapping."""
    if isinstance(value, str):
        value = _split(value)
    if isinstance(value, Mapping):
        value = [f"{name}={kind}" for name, kind in value.items()]
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be NAME=TYPE,...; got {value!r}")
    found: dict[str, str] = {}
    for text in value:
        name, equals, kind = str(text).strip().rpartition("=")
        name, kind = name.strip(), kind.strip()
        if not equals or not name:
            raise ValueError(f"must be NAME=TYPE,... such as label=int64; got {text!r}")
        if kind not in COLUMN_TYPES:
            raise ValueError(
                f"{name}: no such type: {kind!r}; there are {', '.join(COLUMN_TYPES)}"
                f"{did_you_mean(kind, COLUMN_TYPES)}"
            )
        if found.setdefault(name, kind) != kind:
            raise ValueError(f"{name} has two types: {found[name]} and {kind}")
    return tuple(f"{name}={kind}" for name, kind in sorted(found.items()))


# What `allow_remote` may name.
REMOTE_SCHEMES = ("gs", "az", "hf")


def _remote_schemes(value: Any) -> Any:
    """Names of schemes, sorted, each once; ``gs://`` is ``gs``."""
    value = _split(value)
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be names of schemes such as gs,hf; got {value!r}")
    names = [str(name).strip().lower().removesuffix("://") for name in value]
    for name in names:
        if name in ("http", "https"):
            raise ValueError(
                f"{name} stays refused: whoever writes a manifest could have any host asked that "
                "this machine reaches; download the files, or put them on s3://"
            )
        if name not in REMOTE_SCHEMES:
            raise ValueError(
                f"no such scheme: {name!r}; there are {', '.join(REMOTE_SCHEMES)}, and local paths "
                f"and s3:// are always read{did_you_mean(name, REMOTE_SCHEMES)}"
            )
    return tuple(sorted(set(names)))


def _setting(default: Any, text: str) -> Any:
    """A field of `JobConfig`; `text` is its help."""
    return Field(default, description=text)


Numbers = Annotated[tuple[float, ...], BeforeValidator(_numbers)]
Layers = Annotated[tuple[str, ...], BeforeValidator(_split)]
Size = Annotated[int | str, BeforeValidator(_size)]
ShardSize = Annotated[int | Literal["auto"], BeforeValidator(_shard_size)]
RemoteSchemes = Annotated[tuple[str, ...], BeforeValidator(_remote_schemes)]
ColumnTypes = Annotated[tuple[str, ...], BeforeValidator(_column_types)]


class JobConfig(BaseModel):
    """One job's settings, frozen.

    Raises pydantic's `ValidationError`, which `make` turns into `ConfigError`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str | None = _setting(
        None,
        "Settings of a paper or program: gatys2015, gatys2016, gatys-pytorch or johnson; or fast, "
        "or quick with the compact network. "
        "Other settings given take precedence.",
    )
    # network
    weights: str = _setting(
        "imagenet",
        "imagenet (torchvision's, downloaded), compact (a narrow one in the package), random "
        "(seeded, not trained), or a path or URI of a .safetensors or .pth file.",
    )
    weights_input: WeightsInput = _setting(
        "auto",
        "Input the weights were trained on: rgb (torchvision's mean and std), bgr (Caffe's, 0-255 "
        "minus a mean), or auto (as the file says).",
    )
    pooling: Annotated[Pooling, _rule("pooling")] = _setting(
        _D.pooling, "average (the paper's) or max."
    )
    # loss
    content_layers: Annotated[Layers, _rule("content_layers")] = _setting(
        _D.content_layers, "Taps of the content term, comma-separated."
    )
    style_layers: Annotated[Layers, _rule("style_layers")] = _setting(
        _D.style_layers, "Taps of the style term, comma-separated, each weighted 1/k."
    )
    style_layer_weights: Annotated[Numbers, _rule("style_layer_weights")] = _setting(
        _D.style_layer_weights,
        "w_l of the paper's equation 5: one per style layer, comma-separated. Default: 1/k each.",
    )
    style_statistic: Annotated[StyleStatistic, _rule("style_statistic")] = _setting(
        _D.style_statistic,
        "What is matched: gram (the paper's), wasserstein (mean and covariance) or mean-std.",
    )
    fine_layers: Annotated[Layers, _rule("fine_layers")] = _setting(
        _D.fine_layers,
        "For rows with a fine_style: layers whose statistics the style image takes from it first.",
    )
    content_weight: Annotated[float, _rule("content_weight")] = _setting(
        _D.content_weight, "alpha of the paper's equation 7."
    )
    style_weight: Annotated[float, _rule("style_weight")] = _setting(
        _D.style_weight, "beta of the paper's equation 7."
    )
    tv_weight: Annotated[float, _rule("tv_weight")] = _setting(
        _D.tv_weight, "Weight of total variation; 0 as in the paper."
    )
    value_range: Annotated[ValueRange, _rule("value_range")] = _setting(
        _D.value_range,
        "clamped (pixels stay within 0..1 throughout) or free (only the written picture is "
        "clamped).",
    )
    range_weight: Annotated[float, _rule("range_weight")] = _setting(
        _D.range_weight,
        "Weight of the squared excess of pixels below 0 and above 1; 0 as in the paper.",
    )
    loss_scale: Annotated[LossScale, _rule("loss_scale")] = _setting(
        _D.loss_scale, "mean (content divided by N M) or paper (the printed sums, literally)."
    )
    # start and optimiser
    init: Annotated[str, _rule("init")] = _setting(
        _D.init,
        "content, content-matched (in the style's colours), noise, style, or an image's path or "
        "URI.",
    )
    coarse: Annotated[str, _rule("coarse")] = _setting(
        _D.coarse,
        "Stages at smaller sizes first: none; auto (halved down to 128 pixels), half or sqrt2, "
        "with `evaluations` in each; or LONGEST_SIDE:EVALUATIONS,... such as 128:200,256:100 or "
        "50%:40.",
    )
    color: Annotated[Color, _rule("color")] = _setting(
        _D.color,
        "Whose colours: style's; or the content's, by luminance (only luminance is optimised) or "
        "match (the style image's colours are matched first).",
    )
    color_match: Annotated[ColorMatch, _rule("color_match")] = _setting(
        _D.color_match,
        "The map of color match and init content-matched: cholesky, pca or symmetric.",
    )
    seed: Annotated[int, _rule("seed")] = _setting(
        _D.seed, "Seed from which every pair's own seed is derived."
    )
    optimizer: Annotated[Optimizer, _rule("optimizer")] = _setting(
        _D.optimizer,
        "lbfgs, lbfgs-spectral (steps on frequencies: lower loss after as many evaluations) or "
        "adam.",
    )
    learning_rate: Annotated[float, _rule("learning_rate")] = _setting(
        _D.learning_rate, "Adam's step in pixel units of 0..1. L-BFGS finds its own."
    )
    evaluations: Annotated[int, _rule("evaluations")] = _setting(
        _D.evaluations, "Forward + backward passes per pair."
    )
    dtype: Annotated[Dtype, _rule("dtype")] = _setting(
        _D.dtype,
        "Type of the convolutions: float32, bfloat16, or auto (bfloat16 if the device computes in "
        "it). Losses stay float32.",
    )
    # images
    size: Size = _setting(
        512,
        "Pixels, as size_rule reads them; WIDTHxHEIGHT with exact; or original, each picture's own "
        "size up to max_side.",
    )
    size_rule: SizeRule = _setting(
        "longest",
        "longest or shortest side, area (size x size pixels at the image's own aspect), or exact "
        "(scaled to cover, then centre-cropped).",
    )
    style_scale: Annotated[float, Field(ge=0.01, le=100)] = _setting(
        1.0,
        "Size of the style image as a multiple of size. Larger gives larger strokes; never above "
        "the image's own size.",
    )
    max_side: Annotated[int, Field(ge=1, le=65_536)] = _setting(
        2048, "With size original: the longest side that a picture keeps; larger ones shrink to it."
    )
    upsample: bool = _setting(
        False,
        "Enlarge an image that is smaller than its size. Without it the image keeps its own size.",
    )
    max_bytes: Annotated[int, Field(ge=1)] = _setting(
        64 * 2**20, "An input file of more bytes than this is an error row."
    )
    max_pixels: Annotated[int, Field(ge=1)] = _setting(
        100_000_000,
        "An input image of more pixels than this is an error row; checked before decoding.",
    )
    image_format: ImageFormat = _setting(
        "png", "Format of the output: png, jpeg, webp, or tiff (16 bits per channel)."
    )
    quality: Annotated[int, Field(ge=1, le=100)] | None = _setting(
        None, "Quality of jpeg (default 95) or webp (default: lossless)."
    )
    allow_local: bool = _setting(
        False, "Allow an s3:// manifest to reference local files (exposes them to its author)."
    )
    allow_remote: RemoteSchemes = _setting(
        (),
        "Read URIs of these schemes through fsspec: gs, az, hf, comma-separated. Nothing is "
        "written there.",
    )
    request_payer: bool = _setting(
        False,
        "Agree to pay for requests to and bytes of buckets whose owner asks it (Requester Pays).",
    )
    # manifest
    column_types: ColumnTypes = _setting(
        (),
        "Types of carried columns of a CSV manifest, such as label=int64,x=float64; all others "
        f"are text. Types: {', '.join(COLUMN_TYPES)}.",
    )
    # layout and run
    batch_size: Annotated[int, _rule("batch_size")] = _setting(
        _D.batch_size,
        "Pairs of one shape optimised together on a GPU; halved automatically if memory is short.",
    )
    tile_size: Annotated[int, _rule("tile_size")] = _setting(
        _D.tile_size,
        "Evaluate larger pictures in tiles of this many pixels a side, to bound memory. 0: only if "
        "a GPU's memory is short.",
    )
    shard_size: ShardSize = _setting(
        AUTO,
        "Pairs per output part, which a dying worker can lose; auto chooses when a job begins: "
        "few for a small job and for CPUs. A resume keeps the job's.",
    )
    device: Device = _setting("auto", "cuda, cpu, or auto (cuda if the cluster has GPUs).")
    actors: Annotated[int, Field(ge=1)] | None = _setting(
        None,
        "Workers wanted. Default: as many as the cluster's devices hold, following the cluster as "
        "it grows.",
    )
    gpus_per_actor: Annotated[float, Field(gt=0, le=1)] = _setting(1.0, "GPU share of one worker.")
    cpus_per_actor: Annotated[int, Field(ge=1)] = _setting(
        4, "Threads of one worker without a GPU; at most as many as the largest machine has."
    )
    depth: Annotated[int, Field(ge=1, le=8)] = _setting(
        2,
        "Shards in flight per worker: one is optimised while the next is fetched and the last is "
        "written.",
    )
    stall_timeout: Annotated[float, Field(gt=0)] = _setting(
        900.0,
        "Seconds without any step (an image fetched, an evaluation, a row) after which a worker "
        "counts as hung.",
    )
    max_error_rate: Annotated[float, Field(ge=0, le=1)] = _setting(
        0.01,
        "Share of error rows above which a complete job ends with exit code 3. Far above it (from "
        "100 rows on) a job stops early.",
    )

    @model_validator(mode="after")
    def _agree(self) -> JobConfig:
        check_terms(self.content_weight, self.style_weight, self.content_layers, self.style_layers)
        check_layer_weights(self.style_layers, self.style_layer_weights)
        check_size(self.size, self.size_rule)
        if self.size == ORIGINAL and self.upsample:
            raise ValueError("upsample has no meaning for size original; omit one of the two")
        if self.weights in NAMED_WEIGHTS and self.weights_input != "auto":
            raise ValueError(f"weights_input is for a file of weights; {self.weights} has its own")
        check_quality(self.image_format, self.quality)
        return self

    def engine(self) -> StylizeConfig:
        """The settings that `nstray.engine` takes. The caller reads an `init` that is an image."""
        values = {f.name: getattr(self, f.name) for f in dataclass_fields(StylizeConfig)}
        return StylizeConfig(**values)

    @property
    def rows_per_shard(self) -> int:
        """`shard_size` of a job that has begun; raises ValueError while it is ``auto``."""
        if isinstance(self.shard_size, int):
            return self.shard_size
        raise ValueError("shard_size auto is chosen when a job begins")

    def result_fields(self, init: str | None = None) -> dict[str, Any]:
        """The settings that change which rows or pictures come out, JSON-ready.

        `weights` is left out: its id stands for it. If the setting `init` is an image, the argument
        `init` is the digest of its bytes and replaces it, since its path can hold another image
        tomorrow.
        """
        left_out = {*RUN_FIELDS, *CARRIED_FIELDS, *LAYOUT_FIELDS, "weights"}
        fields = self.model_dump(mode="json", exclude=left_out)
        return {**fields, "init": init or self.init}


# The result settings of version 0.2: `fingerprint` hashes each of them. A setting that is added
# later is NOT added here, and is hashed only if it differs from its default. So a job that leaves
# it at its default keeps its fingerprint, which stands in every row and footer, and an output of
# 0.2 can be resumed. A changed default needs a new record format (`nstray.output.records.FORMAT`),
# and with it a new list here.
HASHED_FIELDS = frozenset(
    [
        "weights_input",
        "pooling",
        "content_layers",
        "style_layers",
        "style_layer_weights",
        "style_statistic",
        "fine_layers",
        "content_weight",
        "style_weight",
        "tv_weight",
        "value_range",
        "range_weight",
        "loss_scale",
        "init",
        "coarse",
        "color",
        "color_match",
        "seed",
        "optimizer",
        "learning_rate",
        "evaluations",
        "dtype",
        "size",
        "size_rule",
        "style_scale",
        "upsample",
        "max_bytes",
        "max_pixels",
        "image_format",
        "quality",
    ]
)
# Fields that change how a job runs but not its results. They may differ between a run and its
# resume.
RUN_FIELDS = (
    "allow_local",  # without it a manifest that names local files is refused
    "allow_remote",  # without it what names a URI of such a scheme is refused
    "batch_size",
    "tile_size",
    "device",
    "actors",
    "gpus_per_actor",
    "cpus_per_actor",
    "depth",
    "stall_timeout",
    "max_error_rate",
    "request_payer",
    "preset",  # its settings stand in their own fields
)
# Fields that decide the types of carried columns and no result. A job keeps those that it was begun
# with (`nstray.commands.prepare`), because all its parts have one schema.
CARRIED_FIELDS = ("column_types",)
# Fields that decide how rows are cut into parts and no result. A job keeps those that it was begun
# with, because its parts are cut by them. Development versions of 0.2 took them for result fields.
LAYOUT_FIELDS = ("shard_size",)
# Fields that a manifest row may set by a column of the same name.
ROW_FIELDS = (
    *("seed", "init", "size", "size_rule", "content_weight", "style_weight", "tv_weight"),
    *("evaluations", "content_layers", "style_layers", "style_layer_weights", "coarse", "color"),
    *("color_match", "style_scale", "style_statistic", "fine_layers", "value_range"),
    "range_weight",
)


def check_size(size: int | str, size_rule: str) -> None:
    """Raise ValueError if a size does not go with its rule."""
    if size == ORIGINAL:
        if size_rule != "longest":
            raise ValueError(
                f"size original keeps each picture's own size; omit size_rule {size_rule} "
                "(max_side bounds the longest side)"
            )
    elif isinstance(size, str) and size_rule != "exact":
        raise ValueError(
            f"size {size!r} needs size_rule exact; {size_rule} takes one number of pixels"
        )


def check_quality(image_format: str, quality: int | None) -> None:
    """Raise ValueError if a quality is given for a format that has none."""
    if quality is not None and image_format in ("png", "tiff"):
        raise ValueError(
            f"quality has no meaning for {image_format}; "
            "use image_format jpeg or webp, or omit quality"
        )


def row_adapter(name: str) -> TypeAdapter[list[Any]]:
    """A validator of a column of overrides of the field `name`, with the field's type and rule.

    The column holds no nulls.
    """
    field = JobConfig.model_fields[name]
    kind: Any = field.annotation
    for extra in field.metadata:
        kind = Annotated[kind, extra]
    return TypeAdapter(list[kind])


def result_defaults() -> dict[str, Any]:
    """What `JobConfig.result_fields` gives if every setting is at its default."""
    return make({}).result_fields()


def fingerprint(
    config: JobConfig, weights_id: str, init: str | None = None, *, with_layout: bool = False
) -> str:
    """sha256 (hex) of everything that decides the results.

    Hashed are the id of the weights and the result fields, with `init` as `result_fields` takes it.
    A result field that is not of `HASHED_FIELDS` is left out if it is at its default.

    Args:
        with_layout: hash the `LAYOUT_FIELDS` too, as development versions of 0.2 did.
    """
    defaults = result_defaults()
    fields = {
        name: value
        for name, value in config.result_fields(init).items()
        if name in HASHED_FIELDS or value != defaults[name]
    }
    if with_layout:
        fields |= {name: getattr(config, name) for name in LAYOUT_FIELDS}
    record = {**fields, "weights_id": weights_id}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line per key whose value differs: ``size: 512 there, 256 here``."""
    keys = sorted(set(old) | set(new))
    return [
        f"{k}: {old.get(k, 'absent')!r} there, {new.get(k, 'absent')!r} here"
        for k in keys
        if old.get(k) != new.get(k)
    ]


_SHOWN = 200  # characters of a wrong value in a message


def explain(error: ValidationError) -> str:
    """A validation error as ``field: what is wrong; ...``.

    For a field or a word that does not exist it gives the nearest one.
    """
    lines = []
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else "settings"
        if item["type"] == "extra_forbidden":
            lines.append(f"{name}: no such setting{did_you_mean(name, JobConfig.model_fields)}")
        elif item["type"] == "value_error":
            lines.append(f"{name}: {item['msg'].removeprefix('Value error, ')}")
        else:
            field = JobConfig.model_fields.get(name)
            words = [w for w in get_args(field.annotation) if isinstance(w, str)] if field else []
            text = repr(item["input"])
            hint = did_you_mean(str(item["input"]), words) if len(text) <= _SHOWN else ""
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
            lines.append(f"{name}: {item['msg']}; got {shown}{hint}")
    return "; ".join(dict.fromkeys(lines))


def make(values: Mapping[str, Any]) -> JobConfig:
    """A JobConfig from plain values, which take precedence over those of their `preset`.

    Raises `ConfigError`, which names every wrong field.
    """
    if (name := values.get("preset")) is not None:
        try:
            values = {**preset(name), **values}
        except ValueError as error:
            raise ConfigError(f"preset: {error}") from None
    try:
        return JobConfig(**values)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None
