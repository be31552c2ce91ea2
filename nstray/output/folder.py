"""The folder that a job writes: its files' places, and one object for each kind of file."""

from __future__ import annotations

from nstray.output.data_card import Card
from nstray.output.derived_files import DerivedFile
from nstray.output.indexes import Indexes
from nstray.output.job_record import JobRecord
from nstray.output.parts import Parts
from nstray.output.paths import Paths


class Output(Paths):
    """The folder that a job writes, local or s3://.

    It holds no connection and no state. Any process may have one, and two may write to one folder.
    Everything below ``.nstray/`` except ``job.json`` and ``pairs.parquet`` is derived from the
    footers of the parts.

    Attributes:
        parts: the Parquet files below ``data/``.
        job: ``.nstray/job.json``, the record of the job.
        indexes: ``.nstray/index/``, what each window adds up to.
        summary: ``.nstray/summary.json``, written last: it says that the job is complete.
        estimate: ``.nstray/estimate.json``, what `nstray plan --probe` found.
        card: ``README.md``.

    ``.nstray/latest/`` has copies of the pictures that were committed last
    (`nstray.output.latest`).
    ``.nstray/manifest.parquet`` is the manifest of a job that was given sources
    (`nstray.commands.pairing`).
    """

    def __init__(self, out: str) -> None:
        super().__init__(out)
        self.parts = Parts(self)
        self.job = JobRecord(self)
        self.indexes = Indexes(self, self.parts)
        self.summary = DerivedFile(self.summary_uri)
        self.estimate = DerivedFile(self.estimate_uri)
        self.card = Card(self.card_uri)
