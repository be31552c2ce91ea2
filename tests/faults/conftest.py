"""The proxy before the real server, and a run of the command line, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jobs
import pytest
from proxy import TIMEOUT, FaultProxy
from runs import Run

from nstray import storage
from nstray.storage import s3_client


@pytest.fixture
def proxy(rgw: str, radosgw: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The proxy before the server of `rgw`; the environment leads there, and a silent peer is given up after TIMEOUT."""
    storage.put_new(f"{rgw}/warm", b"")  # the first put into a bucket can take more than TIMEOUT
    storage.delete(f"{rgw}/warm")
    monkeypatch.setattr(s3_client, "READ_TIMEOUT", TIMEOUT)
    monkeypatch.setattr(s3_client, "CONNECT_TIMEOUT", TIMEOUT)
    with FaultProxy(radosgw["AWS_ENDPOINT_URL"], seed=7) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
        yield made


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with jobs.ray_folder() as folder:
        made = Run(tmp_path, folder)
        try:
            yield made
        finally:
            for process in made.started:
                jobs.end(process)
