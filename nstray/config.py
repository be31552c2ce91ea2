"""The job's settings: validated once, here, at the edge; frozen; and their fingerprint.

Every field is an option of the command line (dashes for underscores) and a key of ``--config job.yaml``. The fields of
the optimisation have their rules and defaults in `nstray.engine.settings`; this module adds images, layout and the run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields as dataclass_fields
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
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

_D = StylizeConfig()


def _rule(name: str) -> AfterValidator:
    return AfterValidator(lambda value: check(name, value))


def _split(value: Any) -> Any:
    return [v for v in value.split(",") if v.strip()] if isinstance(value, str) else value


def _size(value: Any) -> int | str:
    """``512`` or, for ``size_rule: exact``, ``640x480`` (width x height)."""
    text = str(value).strip().lower()
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if isinstance(value, bool) or not match:
        raise ValueError(
            f"must be a number of pixels (512) or WIDTHxHEIGHT (640x480); got {value!r}"
        )
    sides = [int(s) for s in match.groups() if s]
    if not all(1 <= s <= 65_536 for s in sides):
        raise ValueError(f"each side must be from 1 to 65536 pixels; got {value!r}")
    return sides[0] if len(sides) == 1 else f"{sides[0]}x{sides[1]}"


def _numbers(value: Any) -> Any:
    return [value] if isinstance(value, int | float) else _split(value)


Numbers = Annotated[tuple[float, ...], BeforeValidator(_numbers)]
Layers = Annotated[tuple[str, ...], BeforeValidator(_split)]
Size = Annotated[int | str, BeforeValidator(_size)]


class JobConfig(BaseModel):
    """One job's settings. Frozen. Raises pydantic's ValidationError; `load` turns that into `ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str | None = Field(
        None,
        description="gatys2015, gatys2016, gatys-pytorch or johnson: settings of a paper or program; or fast; under the others given",
    )
    # network
    weights: str = Field(
        "imagenet",
        description="imagenet (torchvision's, downloaded), random (seeded, no download), or a path or URI of a .safetensors or .pth file",
    )
    weights_input: WeightsInput = Field(
        "auto",
        description="the input the weights were trained on: rgb (torchvision's mean and std), bgr (Caffe's, 0-255 minus a mean), auto: ask the file",
    )
    pooling: Annotated[Pooling, _rule("pooling")] = Field(
        _D.pooling, description="average (the paper's) or max"
    )
    # loss
    content_layers: Annotated[Layers, _rule("content_layers")] = Field(
        _D.content_layers, description="taps of the content term, comma-separated"
    )
    style_layers: Annotated[Layers, _rule("style_layers")] = Field(
        _D.style_layers, description="taps of the style term, comma-separated, each weighted 1/k"
    )
    style_layer_weights: Annotated[Numbers, _rule("style_layer_weights")] = Field(
        _D.style_layer_weights,
        description="w_l of the paper's equation 5, one per style layer, comma-separated; default: 1/k each",
    )
    style_statistic: Annotated[StyleStatistic, _rule("style_statistic")] = Field(
        _D.style_statistic,
        description="what is matched: gram (the paper's), wasserstein (mean and covariance) or mean-std",
    )
    fine_layers: Annotated[Layers, _rule("fine_layers")] = Field(
        _D.fine_layers,
        description="for rows with a fine_style: the layers whose statistics the style image takes from it first",
    )
    content_weight: Annotated[float, _rule("content_weight")] = Field(
        _D.content_weight, description="alpha of the paper's equation 7"
    )
    style_weight: Annotated[float, _rule("style_weight")] = Field(
        _D.style_weight, description="beta of the paper's equation 7"
    )
    tv_weight: Annotated[float, _rule("tv_weight")] = Field(
        _D.tv_weight, description="weight of total variation; 0 as in the paper"
    )
    value_range: Annotated[ValueRange, _rule("value_range")] = Field(
        _D.value_range,
        description="clamped (pixels stay within 0..1 all along) or free (they are clamped in the picture written only)",
    )
    range_weight: Annotated[float, _rule("range_weight")] = Field(
        _D.range_weight,
        description="weight of the squared excess of pixels below 0 and above 1; 0 as in the paper",
    )
    loss_scale: Annotated[LossScale, _rule("loss_scale")] = Field(
        _D.loss_scale,
        description="mean: content divided by N M; paper: the printed sums, literally",
    )
    # start and optimiser
    init: Annotated[str, _rule("init")] = Field(
        _D.init,
        description="content, content-matched (in the style's colours), noise, style, or an image's path or URI",
    )
    coarse: Annotated[str, _rule("coarse")] = Field(
        _D.coarse,
        description="stages at smaller sizes first: none; auto (halved down to 128 pixels), half, sqrt2, with `evaluations` in each; "
        "or LONGEST_SIDE:EVALUATIONS,... such as 128:200,256:100 or 50%:40",
    )
    color: Annotated[Color, _rule("color")] = Field(
        _D.color,
        description="whose colours: style's; or the content's, by luminance (only that is optimised) or match (of the style image first)",
    )
    color_match: Annotated[ColorMatch, _rule("color_match")] = Field(
        _D.color_match,
        description="the map of color match and init content-matched: cholesky, pca or symmetric",
    )
    seed: Annotated[int, _rule("seed")] = Field(
        _D.seed, description="from which every pair's own seed is derived"
    )
    optimizer: Annotated[Optimizer, _rule("optimizer")] = Field(
        _D.optimizer,
        description="lbfgs, lbfgs-spectral (steps on frequencies: lower after as many evaluations) or adam",
    )
    learning_rate: Annotated[float, _rule("learning_rate")] = Field(
        _D.learning_rate, description="Adam's step in pixel units of 0..1; L-BFGS finds its own"
    )
    evaluations: Annotated[int, _rule("evaluations")] = Field(
        _D.evaluations, description="forward + backward passes per pair"
    )
    dtype: Annotated[Dtype, _rule("dtype")] = Field(
        _D.dtype,
        description="of the convolutions: float32, bfloat16, or auto: bfloat16 where the device computes in it; losses stay float32",
    )
    # images
    size: Size = Field(512, description="pixels, as size_rule reads them; WIDTHxHEIGHT with exact")
    size_rule: SizeRule = Field(
        "longest",
        description="longest or shortest side, area (size x size pixels at the image's own aspect), or exact (scaled to cover, centre-cropped)",
    )
    style_scale: Annotated[float, Field(ge=0.01, le=100)] = Field(
        1.0,
        description="the style image's size as a multiple of size: larger gives larger strokes; never above the image's own size",
    )
    upsample: bool = Field(
        False, description="let an image smaller than its size grow; else it keeps its own size"
    )
    max_bytes: Annotated[int, Field(ge=1)] = Field(
        64 * 2**20, description="an input file above this many bytes is an error row"
    )
    max_pixels: Annotated[int, Field(ge=1)] = Field(
        100_000_000,
        description="an input image above this many pixels is an error row; checked before decoding",
    )
    image_format: ImageFormat = Field(
        "png", description="of the output: png, jpeg, webp, or tiff (16 bits per channel)"
    )
    quality: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="jpeg (default 95) or webp (default: lossless)"
    )
    allow_local: bool = Field(
        False,
        description="let a manifest on s3:// name local files, which its author may then have read and shown",
    )
    # layout and run
    batch_size: Annotated[int, _rule("batch_size")] = Field(
        _D.batch_size,
        description="pairs of one shape optimised together on a GPU; halved by itself where memory is short",
    )
    tile_size: Annotated[int, _rule("tile_size")] = Field(
        _D.tile_size,
        description="evaluate larger pictures in tiles of this many pixels a side, to bound memory; 0: only where a GPU's memory is short",
    )
    shard_size: Annotated[int, Field(ge=1, le=65_536)] = Field(
        16, description="pairs per output part: what a dying worker can lose"
    )
    device: Device = Field(
        "auto", description="cuda, cpu, or auto: cuda where the cluster has GPUs"
    )
    actors: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="workers wanted; default: as many as the cluster's devices hold, following it as it grows",
    )
    gpus_per_actor: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="GPU share of one worker"
    )
    cpus_per_actor: Annotated[int, Field(ge=1)] = Field(
        4, description="threads of one worker where there is no GPU (at most the largest machine's)"
    )
    depth: Annotated[int, Field(ge=1, le=8)] = Field(
        2,
        description="shards in flight per worker: one optimises while the next is fetched and the last is written",
    )
    stall_timeout: Annotated[float, Field(gt=0)] = Field(
        900.0,
        description="seconds without any step (an image fetched, an evaluation, a row) after which a worker counts as hung",
    )
    max_error_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01,
        description="share of error rows above which a complete job ends with exit code 3, and far above which (from 100 rows on) a job stops early",
    )

    @model_validator(mode="after")
    def _agree(self) -> JobConfig:
        check_terms(self.content_weight, self.style_weight, self.content_layers, self.style_layers)
        check_layer_weights(self.style_layers, self.style_layer_weights)
        check_size(self.size, self.size_rule)
        if self.weights in ("imagenet", "random") and self.weights_input != "auto":
            raise ValueError(f"weights_input is for a file of weights; {self.weights} has its own")
        check_quality(self.image_format, self.quality)
        return self

    def engine(self) -> StylizeConfig:
        """The part of the settings that `nstray.engine` takes. An `init` that is an image is resolved by the caller."""
        values = {f.name: getattr(self, f.name) for f in dataclass_fields(StylizeConfig)}
        return StylizeConfig(**values)

    def result_fields(self, init: str | None = None) -> dict[str, Any]:
        """The settings that change which rows or pictures come out, JSON-ready.

        `weights` is left out: its id stands for it. If the setting `init` is an image, the argument
        `init` is the digest of its bytes and replaces it, since its path can hold another image
        tomorrow.
        """
        fields = self.model_dump(mode="json", exclude=set(RUN_FIELDS) | {"weights"})
        return {**fields, "init": init or self.init}


# The result settings of version 0.2: `fingerprint` hashes each of them. A setting that is added
# later is NOT added here, and is hashed only if it differs from its default. So a job that leaves
# it at its default keeps its fingerprint, which stands in every row and footer, and an output of
# 0.2 can be resumed. A changed default needs a new record format (`nstray.output.records.FORMAT`),
# and with it a new list here.
HASHED_FIELDS = frozenset(
    (
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
        "shard_size",
    )
)
# Fields that change how a job runs but not what comes out: free to differ between a run and its resume.
RUN_FIELDS = (
    "allow_local",  # a manifest that it would change is refused without it
    "batch_size",
    "tile_size",
    "device",
    "actors",
    "gpus_per_actor",
    "cpus_per_actor",
    "depth",
    "stall_timeout",
    "max_error_rate",
    "preset",  # its settings stand in their own fields
)
# Fields a manifest row may set for itself, by a column of the same name.
ROW_FIELDS = (
    *(
        "seed",
        "init",
        "size",
        "size_rule",
        "content_weight",
        "style_weight",
        "tv_weight",
        "evaluations",
    ),
    *(
        "content_layers",
        "style_layers",
        "style_layer_weights",
        "coarse",
        "color",
        "color_match",
        "style_scale",
    ),
    *("style_statistic", "fine_layers", "value_range", "range_weight"),
)


def check_size(size: int | str, size_rule: str) -> None:
    """Raise ValueError where WIDTHxHEIGHT is given to a rule that takes one number."""
    if isinstance(size, str) and size_rule != "exact":
        raise ValueError(
            f"size {size!r} needs size_rule exact; {size_rule} takes one number of pixels"
        )


def check_quality(image_format: str, quality: int | None) -> None:
    """Raise ValueError where a quality is given to a format that has none."""
    if quality is not None and image_format in ("png", "tiff"):
        raise ValueError(
            f"quality has no meaning for {image_format}; use image_format jpeg or webp, or leave quality out"
        )


def row_adapter(name: str) -> TypeAdapter[list[Any]]:
    """A validator of a whole column of overrides of field `name` (no nulls), with the field's own type and rule."""
    field = JobConfig.model_fields[name]
    kind: Any = field.annotation
    for extra in field.metadata:
        kind = Annotated[kind, extra]
    return TypeAdapter(list[kind])


def result_defaults() -> dict[str, Any]:
    """What `JobConfig.result_fields` gives if every setting is at its default."""
    return make({}).result_fields()


def fingerprint(config: JobConfig, weights_id: str, init: str | None = None) -> str:
    """sha256 (hex) of everything that decides the results.

    Hashed are the id of the weights and the result fields, with `init` as `result_fields` takes it.
    A result field that is not of `HASHED_FIELDS` is left out if it is at its default.
    """
    defaults = result_defaults()
    fields = {
        name: value
        for name, value in config.result_fields(init).items()
        if name in HASHED_FIELDS or value != defaults[name]
    }
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


def explain(error: ValidationError) -> str:
    """A validation error as lines of ``field: what is wrong``, with the nearest name for one that does not exist."""
    lines = []
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else "settings"
        if item["type"] == "extra_forbidden":
            lines.append(f"{name}: no such setting{did_you_mean(name, JobConfig.model_fields)}")
        elif item["type"] == "value_error":
            lines.append(f"{name}: {item['msg'].removeprefix('Value error, ')}")
        else:
            words = (
                [w for w in get_args(JobConfig.model_fields[name].annotation) if isinstance(w, str)]
                if name in JobConfig.model_fields
                else []
            )
            lines.append(
                f"{name}: {item['msg']}; got {item['input']!r}{did_you_mean(str(item['input']), words)}"
            )
    return "; ".join(dict.fromkeys(lines))


def make(values: Mapping[str, Any]) -> JobConfig:
    """A JobConfig from plain values, over those of their `preset`; raises `ConfigError` naming every wrong field."""
    if (name := values.get("preset")) is not None:
        try:
            values = {**preset(name), **values}
        except ValueError as error:
            raise ConfigError(f"preset: {error}") from None
    try:
        return JobConfig(**values)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the lines themselves, which may hold a secret."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(getattr(error, "reason", "")) or type(error).__name__
    return f"{error.problem} in line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"


def load(path: str | None, overrides: Iterable[tuple[str, Any]] = ()) -> JobConfig:
    """Settings of a YAML file (or the defaults), with `overrides` winning; raises `ConfigError`."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            read = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"--config {path}: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"--config {path} is not YAML: {_yaml_problem(error)}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"--config {path} is not YAML: {error.reason} at byte {error.start}"
            ) from None
        if read is not None and not isinstance(read, dict):
            raise ConfigError(
                f"--config {path}: expected lines of 'name: value', got {type(read).__name__}"
            )
        values.update({str(k).replace("-", "_"): v for k, v in (read or {}).items()})
    values.update(overrides)
    return make(values)
