"""`nstray stylise`: pictures made by the engine in this process, with neither manifest nor Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nstray import storage
from nstray.commands import stylise_sheet
from nstray.commands.stylise_display import State, StyliseDisplay
from nstray.commands.stylise_eta import Eta
from nstray.commands.stylise_plan import Plan, Wanted, shown
from nstray.commands.stylise_preview import Preview
from nstray.config import JobConfig
from nstray.errors import AlreadyExists, ErrorCode, JobFailed, PairError, UsageError
from nstray.images.encode import encode, quantize
from nstray.manifest.pair import Pair
from nstray.system.stop_signals import EXIT_STOPPED
from nstray.text import counted

if TYPE_CHECKING:
    from nstray.engine.pair import Result
    from nstray.engine.progress import Progress
    from nstray.engine.stylizer import Stylizer
    from nstray.worker.inputs import Inputs, LoadedPair

EXIT_COMPLETE, EXIT_ERRORS = 0, 3
MANY = 100  # pictures above which a hint names `nstray run`
# What is wrong with a picture itself; anything else is a failure of ours or of the machine.
_USER = frozenset(
    {
        ErrorCode.NOT_FOUND,
        ErrorCode.ACCESS_DENIED,
        ErrorCode.EMPTY_FILE,
        ErrorCode.TOO_MANY_BYTES,
        ErrorCode.TOO_MANY_PIXELS,
        ErrorCode.NOT_AN_IMAGE,
        ErrorCode.UNSUPPORTED_FORMAT,
        ErrorCode.DECODE_FAILED,
        ErrorCode.TOO_SMALL,
    }
)


def stylise(plan: Plan, config: JobConfig, *, as_json: bool = False) -> int:
    """Make the pictures of `plan`; returns the exit code.

    A picture of a grid that can't be made is named and left out. Raises `UsageError` or `JobFailed`
    for a picture given by itself, `WeightsError`, and `StorageError`.
    """
    with StyliseDisplay(len(plan.wanted)) as display:
        work = _Work(plan, config, as_json, display)
        try:
            return work.run()
        except KeyboardInterrupt:
            work.say_stopped()
            return EXIT_STOPPED


class _Work:
    """The pictures of one command, one after the other."""

    def __init__(
        self, plan: Plan, config: JobConfig, as_json: bool, display: StyliseDisplay
    ) -> None:
        self._plan, self._config, self._as_json = plan, config, as_json
        self._display, self._eta = display, Eta(len(plan.wanted))
        self._made = self._skipped = 0
        self._named: set[str] = set()  # reasons that were told
        self._at: tuple[str, int, int] | None = None  # picture at work, evaluation, evaluations
        self._preview = None if plan.preview is None else Preview(plan.preview, display.warn)
        self._batch: list[Wanted] = []
        self._cells = stylise_sheet.Cells(plan)

    def run(self) -> int:
        """Make all pictures; returns the exit code."""
        for source in (self._plan.contents, self._plan.styles):
            for line in source.left_out:
                self._display.note(f"{source.role} {source.given}: {line}")
        if len(self._plan.wanted) > MANY:
            self._display.note(
                f"{counted(len(self._plan.wanted), 'picture')}, one after the other; "
                "nstray run CONTENT OUT --style STYLE uses every device, and resumes"
            )
        self._display.waiting("reading the network and the pictures")
        # Torch takes seconds to import, and mistakes of names are told before.
        from nstray.commands import stylise_engine

        stylizer, weights_id = stylise_engine.stylizer(self._config, self._display.warn)
        with stylise_engine.inputs(self._config, stylizer, weights_id) as inputs:
            self._make_all(stylizer, inputs)
        self._at = None
        if self._made and (sheet := self._plan.sheet) is not None:
            self._display.waiting("drawing the sheet")
            drawn = self._cells.save(sheet, self._config, weights_id)
            if not self._as_json:
                self._display.answer(shown(sheet))
            if drawn < len(self._plan.wanted):
                self._display.note(f"the sheet shows {drawn} of {len(self._plan.wanted)} pairs")
        if self._skipped:
            self._display.note(
                f"{counted(self._made, 'picture')} made, {self._skipped} of "
                f"{len(self._plan.wanted)} left out: see above"
            )
        return EXIT_ERRORS if self._skipped else EXIT_COMPLETE

    def say_stopped(self) -> None:
        """Say what an interrupt loses, and where what there is lies."""
        lost = "stopped before the first evaluation"
        if self._at is not None:
            name, evaluation, evaluations = self._at
            lost = f"stopped at evaluation {evaluation} of {evaluations} of {name}, which is lost"
        where = "nothing was written"
        if self._plan.folder is not None and self._made:
            where = f"{self._made} of {counted(len(self._plan.wanted), 'picture')} are in " + shown(
                self._plan.folder
            )
        elif self._made:
            where = f"its picture is in {shown(self._plan.wanted[0].target)}"
        if self._preview is not None and self._preview.shows is not None:
            name, evaluation = self._preview.shows
            where += f"; {shown(self._preview.path)} has {name} as of evaluation {evaluation}"
        self._display.note(f"nstray: {lost}; {where}")

    def _make_all(self, stylizer: Stylizer, inputs: Inputs) -> None:
        from nstray.engine.batching import Memory, run_batches
        from nstray.worker.engine_pairs import as_pair_error, engine_pair

        memory = Memory()
        size = self._config.batch_size if stylizer.batched else 1
        for batch in _chunks(self._plan.wanted, size):
            loaded = inputs.load([_pair(wanted) for wanted in batch])
            good = [k for k, ready in enumerate(loaded) if ready.error is None]
            for ready, wanted in zip(loaded, batch, strict=True):
                if ready.error is not None:
                    self._skip(wanted, ready.error)
            self._batch = [batch[k] for k in good]

            def on_batch(chunk: list[int], loaded: Sequence[LoadedPair] = loaded) -> None:
                first = next(r for r in loaded if r.pair.pair_id == self._batch[chunk[0]].pair_id)
                self._begin(chunk, stylizer, first)

            pairs = [engine_pair(loaded[k], inputs.own_settings) for k in good]
            for k, outcome in run_batches(
                stylizer,
                pairs,
                size,
                memory=memory,
                on_batch=on_batch,
                on_progress=self._watch,
            ):
                wanted = self._batch[k]
                found = as_pair_error(outcome, wanted.pair_id)
                if isinstance(found, PairError):
                    self._skip(wanted, PairError(found.code, f"{wanted.name}: {found.message}"))
                else:
                    self._keep(wanted, found, loaded[good[k]])

    def _begin(self, chunk: list[int], stylizer: Stylizer, first: LoadedPair) -> None:
        """A batch begins; its first picture stands for it."""
        from nstray.engine.stages import stages_of

        name = self._batch[chunk[0]].name
        more = f" and {len(chunk) - 1} more" if len(chunk) > 1 else ""
        self._display.begin(f"{name}{more}", self._made + self._skipped + 1)
        config = stylizer.config
        assert first.content is not None
        height, width = first.content.pixels.shape[:2]
        least = stylizer.network.minimum_side((*config.content_layers, *config.style_layers))
        self._eta.begin(
            [
                (stage.shape[0] * stage.shape[1], stage.evaluations or config.evaluations)
                for stage in stages_of(config, height, width, least)
            ]
        )
        if self._preview is not None:
            self._preview.begin(height, width)

    def _watch(self, progress: Progress) -> None:
        """What the engine calls after each evaluation."""
        wanted = self._batch[progress.indices[0]]
        self._at = (wanted.name, progress.evaluation, progress.evaluations)
        eta, eta_all = self._eta.seconds(progress.evaluation, progress.stage)
        if self._display.due():
            loss = progress.losses()[0]
            self._display.curve.add(progress.evaluation, loss)
            self._display.show(
                State(
                    progress.evaluation,
                    progress.evaluations,
                    progress.stage,
                    progress.stages,
                    progress.shape,
                    loss,
                    eta,
                    eta_all,
                )
            )
        if self._preview is not None and self._preview.due():
            image = progress.pictures()[0].numpy()
            self._preview.write(image, wanted.name, progress.evaluation)

    def _keep(self, wanted: Wanted, result: Result, ready: LoadedPair) -> None:
        """Write a picture, and say so."""
        config = self._config
        image = result.image.numpy()
        pixels = quantize(image.transpose(1, 2, 0), config.image_format)
        try:
            data = encode(pixels, config.image_format, config.quality)
        except PairError as error:
            self._skip(wanted, error)
            return
        if self._preview is not None:
            self._preview.write(image, wanted.name, result.evaluations)
        if self._plan.overwrite:
            storage.put_over(wanted.target, data)
        else:
            try:
                storage.put_new(wanted.target, data)
            except AlreadyExists:
                raise UsageError(
                    f"{shown(wanted.target)} has come to exist in the meantime, and is not "
                    "replaced; give --overwrite, or another -o"
                ) from None
        self._made += 1
        self._at = None
        self._eta.done(result.seconds)
        self._cells.add(wanted, ready, pixels)
        self._display.done(result.loss_curve, result.seconds, shown(wanted.target))
        self._display.answer(
            json.dumps(_record(wanted, result), ensure_ascii=False)
            if self._as_json
            else shown(wanted.target)
        )

    def _skip(self, wanted: Wanted, error: PairError) -> None:
        """Leave a pair out of a grid; raise if no other pair is left."""
        role = error.message.partition(" ")[0]
        sources = {"content": self._plan.contents, "style": self._plan.styles}
        alone = sources[role].is_file if role in sources else False
        if self._plan.folder is None or alone:
            kind = UsageError if error.code in _USER else JobFailed
            raise kind(error.message)
        self._skipped += 1
        self._eta.skipped()
        self._cells.skip(wanted, error)
        if error.message not in self._named:
            self._named.add(error.message)
            self._display.skipped(str(error))
        if self._as_json:
            record = {"content": wanted.content.uri, "style": wanted.style.uri, "path": None}
            record |= {"error_code": error.code.value, "error_message": error.message}
            self._display.answer(json.dumps(record, ensure_ascii=False))


def _chunks(wanted: Sequence[Wanted], size: int) -> Iterator[list[Wanted]]:
    for at in range(0, len(wanted), size):
        yield list(wanted[at : at + size])


def _pair(wanted: Wanted) -> Pair:
    """The pair as a manifest's row would be."""
    return Pair(
        row=0,
        pair_id=wanted.pair_id,
        content=wanted.content.uri,
        styles=(wanted.style.uri,),
        style_weights=(1.0,),
        overrides={},
    )


def _record(wanted: Wanted, result: Result) -> dict[str, Any]:
    """What --json says of a picture."""
    height, width = result.image.shape[1:]
    losses = ("loss_total", "loss_content", "loss_style", "loss_tv", "loss_range")
    return {
        "content": wanted.content.uri,
        "style": wanted.style.uri,
        "path": wanted.target,
        "width": width,
        "height": height,
        **{name: getattr(result, name) for name in losses},
        "loss_start": result.loss_curve[0],
        "evaluations": result.evaluations,
        "seconds": result.seconds,
        "seed": result.seed,
    }
