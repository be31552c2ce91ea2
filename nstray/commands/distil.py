"""`nstray weights distil`: trains a narrow network that imitates a wide one.

Functions that need torch import it in their bodies.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from nstray import storage
from nstray.cluster.progress import LINE_EVERY
from nstray.commands.decoded_pictures import Pictures, Say
from nstray.commands.network_files import about_file, read_network, writable, write_file
from nstray.engine.settings import Pooling
from nstray.errors import NotFound, UsageError, WeightsError
from nstray.text import duration, log_event

if TYPE_CHECKING:
    from torch import Tensor

    from nstray.engine.network.distil import Distillation
    from nstray.engine.network.recipe import Recipe
    from nstray.engine.network.weights import VGGWeights

CHECKPOINT = ".checkpoint"  # behind the name of the file that is made
SAVE_EVERY = 60.0  # seconds between two checkpoints
HELD_OUT_EVERY = 16  # one picture of so many is held out, if there is no folder of them
MEASURED = 64  # pictures at most on which a network is normalised and regressions are fitted
RARE = 1e-2  # share of its layer's mean activation up to which a filter is removed
# Root mean square of a filter's activations at most. That of the median filter of the teacher in
# docs/compact.md, at mean 1, is 1.2 to 2.1 in its style layers.
LARGEST = 1.5
SAMPLES = 32  # steps whose crops the training begins with


def distil(
    teacher: str,
    images: str,
    out: str,
    recipe: Recipe,
    *,
    held_out: str | None,
    size: int,
    limit: int,
    pooling: Pooling | None,
    device: Literal["auto", "cpu", "cuda"],
    overwrite: bool,
    say: Say,
) -> dict[str, Any]:
    """Train a student of `teacher` on pictures, write it to `out` and say how faithful it is.

    A checkpoint beside `out` is written every minute. The same command goes on from it.

    Args:
        teacher: ``imagenet``, ``random``, or a path or URI.
        images: folder or s3:// prefix of the pictures to train on.
        out: .safetensors, local or s3://: float16, normalised over the pictures.
        recipe: what is trained, and how.
        held_out: folder of the pictures on which fidelity is measured; None for one in sixteen of
            `images`, which is then not trained on.
        size: longest side of the pictures, in pixels; smaller ones keep their size.
        limit: pictures to train on at most, taken evenly from the sorted names.
        pooling: of both networks; None for the teacher's own, or max if its file does not say.
        device: where it is trained.
        overwrite: replace `out` if it exists.
        say: called with a line for each picture that can't be used, and with one a minute.

    Returns what was done. Raises `UsageError`, `WeightsError`, `StorageError`.
    """
    out = writable(out, overwrite)
    network = read_network(teacher, "auto")
    pictures = Pictures(images, size, limit, say)
    judged = None if held_out is None else Pictures(held_out, size, None, say)
    checkpoint = _Checkpoint(out, network.id, recipe)
    saved = checkpoint.find()

    import torch

    from nstray.engine.network.distil import Distillation, draw_crops
    from nstray.engine.network.fidelity import fidelity
    from nstray.engine.network.normalise import normalise, without_rare

    found_device = _device(device)
    pooling = pooling or network.pooling or "max"
    if missing := [layer for layer in recipe.layers if layer not in network.layers]:
        say(
            f"warning: {network.source} holds {network.layers[0]} to {network.layers[-1]}; left "
            f"out: {', '.join(missing)}. Jobs with the network that is made need --content-layers "
            "and --style-layers"
        )
    trained, kept = _decoded(pictures, judged, recipe.side)
    measured = trained[:: -(-len(trained) // MEASURED)]
    scaled_teacher = normalise(network.up_to(recipe.layers), measured, pooling)
    scaled_teacher.require_alive()
    network = scaled_teacher.weights
    sample = torch.cat([draw_crops(trained, recipe, -1 - i) for i in range(SAMPLES)])
    state = Distillation(network, recipe, pooling, sample, found_device)
    if saved is not None:
        state.restore(saved)
        log_event(
            "resumed", say, step=state.step_number, of=recipe.steps, checkpoint=checkpoint.uri
        )
    _train(state, trained, checkpoint, say)
    made = state.weights()
    made = without_rare(made, normalise(made, measured, pooling).means, RARE)
    scaled = normalise(made, measured, pooling, LARGEST)
    student = _rounded(scaled.weights)
    found = fidelity(network, student, pooling, state.taps, measured, kept, found_device)
    variance = {layer: round(f.variance, 4) for layer, f in found.items()}
    gram_error = {layer: round(f.gram, 4) for layer, f in found.items()}
    about = {
        "distilled_from": network.source,
        "teacher_id": checkpoint.teacher,
        "steps": str(recipe.steps),
        "images": str(len(trained)),
        "variance": json.dumps(variance),
        "gram_error": json.dumps(gram_error),
        "normalised": scaled.metadata["normalised"],
    }
    from nstray.engine.network.weight_files import to_safetensors

    data = to_safetensors(student, about)
    write_file(out, data, overwrite)
    checkpoint.remove()
    return {
        **about_file(out, data, student),
        "teacher_id": checkpoint.teacher,
        "images": len(trained),
        "held_out": len(kept),
        "skipped": pictures.skipped + (judged.skipped if judged else 0),
        "steps": recipe.steps,
        "bytes": len(data),
        "variance": variance,
        "gram_error": gram_error,
    }


class _Checkpoint:
    """The state of a training beside the file that it makes."""

    def __init__(self, out: str, teacher: str, recipe: Recipe) -> None:
        self.uri, self.teacher = out + CHECKPOINT, teacher
        self._recipe = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(recipe).items()
        }

    def find(self) -> dict[str, Any] | None:
        """The state, or None; raises UsageError for that of another training."""
        import torch

        try:
            data = storage.read(self.uri)
        except NotFound:
            return None
        try:
            stored = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            about, state = stored["about"], stored["state"]
        except Exception as error:
            raise UsageError(
                f"{self.uri} is no checkpoint of a training ({type(error).__name__}); "
                "remove it, or write to another file"
            ) from None
        mine = self._about()
        differ = [name for name in mine if about.get(name) != mine[name]]
        if differ:
            words = ", ".join(f"{n} {about.get(n)!r}, now {mine[n]!r}" for n in differ)
            raise UsageError(
                f"{self.uri} is the checkpoint of another training: {words}; "
                "remove it, or write to another file"
            )
        return dict(state)

    def save(self, state: Distillation) -> None:
        """Replace the file."""
        import torch

        stream = io.BytesIO()
        torch.save({"about": self._about(), "state": state.state()}, stream)
        storage.put_over(self.uri, stream.getvalue())

    def remove(self) -> None:
        """Remove the file if it is there."""
        if storage.head(self.uri) is not None:
            storage.delete(self.uri)

    def _about(self) -> dict[str, Any]:
        return {"teacher": self.teacher, **self._recipe}


def _device(wanted: str) -> str:
    import torch

    cuda = torch.cuda.is_available()
    if wanted == "cuda" and not cuda:
        raise UsageError("--device cuda: torch sees no GPU here; leave --device out")
    return "cuda" if cuda and wanted != "cpu" else "cpu"


def _decoded(
    pictures: Pictures, judged: Pictures | None, side: int
) -> tuple[list[Tensor], list[Tensor]]:
    """The pictures to train on, and those that are held out: (3, H, W) uint8."""
    for given in (pictures, judged):
        if given is not None:
            given.least, given.deepest = side, "a crop"
    found = list(pictures)
    if judged is not None:
        return found, list(judged)
    held_out = found[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]
    if not held_out:
        raise UsageError(
            f"--images {pictures.folder}: {len(found)} pictures are too few to hold any out; "
            f"give {HELD_OUT_EVERY // 2 + 1} at least, or a folder of others with --held-out"
        )
    return [p for i, p in enumerate(found) if i % HELD_OUT_EVERY != HELD_OUT_EVERY // 2], held_out


def _train(
    state: Distillation, pictures: Sequence[Tensor], checkpoint: _Checkpoint, say: Say
) -> None:
    """Take the steps that are left."""
    from nstray.engine.network.distil import draw_crops

    total, first = state.recipe.steps, state.step_number
    began = saved = told = time.monotonic()
    seen: dict[str, float] = {}
    try:
        while state.step_number < total:
            errors = state.step(draw_crops(pictures, state.recipe, state.step_number))
            for layer, error in errors.items():
                seen[layer] = seen.get(layer, error) * 0.98 + error * 0.02
            now = time.monotonic()
            if now - saved >= SAVE_EVERY:
                checkpoint.save(state)
                saved = now
            if now - told >= LINE_EVERY or state.step_number == total:
                told = now
                rate = (state.step_number - first) / (now - began)
                log_event(
                    "progress",
                    say,
                    step=state.step_number,
                    of=total,
                    eta=duration((total - state.step_number) / rate),
                    unexplained=",".join(
                        f"{layer}:{'-' if math.isnan(error) else f'{error:.3f}'}"
                        for layer, error in seen.items()
                    ),
                )
    except BaseException:
        if state.step_number > first:
            checkpoint.save(state)
        raise


def _rounded(student: VGGWeights) -> VGGWeights:
    """The student as its file holds it: half the bytes, in float16; raises WeightsError."""
    tensors = {name: tensor.half() for name, tensor in student.tensors.items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise WeightsError(f"the student's {name} leaves the range of float16; train it longer")
    return dataclasses.replace(student, tensors=tensors)
