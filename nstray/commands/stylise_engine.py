"""The engine of `nstray stylise`: weights, device and images as a worker of a job has them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import torch

from nstray import storage
from nstray.commands.load_weights import read_file, up_to_taps
from nstray.config import JobConfig
from nstray.engine import settings
from nstray.engine.network.weights import VGGWeights
from nstray.engine.stylizer import Stylizer
from nstray.errors import UsageError
from nstray.manifest.pair import ManifestInfo
from nstray.sources.read import absolute_reference
from nstray.worker.inputs import Inputs
from nstray.worker.messages import JobSpec
from nstray.worker.timing import PhaseTimes

_READERS = 8  # threads that fetch and decode


def stylizer(config: JobConfig, warn: Callable[[str], None]) -> tuple[Stylizer, str]:
    """A stylizer on the device of `config`, and the id of its weights.

    Raises `UsageError` without the device that is asked for, and `WeightsError`.
    """
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise UsageError("device cuda: torch finds no GPU here; use --device cpu")
    weights = _weights(config)
    if weights.source == "random":
        warn("weights random: colours and texture, not what the trained network gives")
    note = settings.pooling_note(weights.pooling, config.pooling)
    if note is not None:
        warn(f"weights {weights.source}: {note}")
    own = {} if config.init in settings.INITS else {"init": "content"}  # it is the pairs' start
    device = ("cuda" if has_gpu else "cpu") if config.device == "auto" else config.device
    return Stylizer(config.model_copy(update=own).engine(), weights, device), weights.id


@contextlib.contextmanager
def inputs(config: JobConfig, engine: Stylizer, weights_id: str) -> Iterator[Inputs]:
    """What fetches, decodes and resizes the images of pairs, as in a job."""
    init = config.init if config.init in settings.INITS else absolute_reference(config.init)
    no_manifest = ManifestInfo("", 0, "", pa.schema([]), (), (), (), ())
    spec = JobSpec(config, "", "", weights_id, no_manifest, init)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="io") as pool:
        made = Inputs(
            spec,
            pool,
            engine.settings,
            engine.network.minimum_side,
            PhaseTimes(),
            lambda: None,
        )
        try:
            yield made
        finally:
            made.close()


def _weights(config: JobConfig) -> VGGWeights:
    """The weights up to the deepest layer of the terms that are on; raises `WeightsError`."""
    taps = (
        *(config.content_layers if config.content_weight > 0 else ()),
        *(config.style_layers if config.style_weight > 0 else ()),
    )
    source = config.weights
    data = None if source in settings.NAMED_WEIGHTS else read_file(source)
    return up_to_taps(storage.redact(source), data, input=config.weights_input, taps=taps)
