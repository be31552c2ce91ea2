"""Members of tars: by place, by name, and what a hostile tar may hold."""

from __future__ import annotations

import contextlib
import os
import random
import tarfile
import zlib
from pathlib import Path

import pytest
from archives import offsets, peak_below, tar

from nstray import storage
from nstray.errors import BadArchive, Changed, Corrupt, NotFound, TooLarge
from nstray.sources import tar as sources_tar
from nstray.sources.ranged_file import RangedFile
from nstray.sources.read import Sources
from nstray.sources.reference import Place
from nstray.storage import s3_client

MEMBERS = {"a/1.png": b"one", "./b.png": b"second" * 100, "c::d[0].png": b"3" * 1000, "ü.png": b"", "x" * 180 + ".png": b"long"}


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")


def put(folder: str, data: bytes, name: str = "a.tar") -> str:
    storage.put_over(f"{folder}/{name}", data)
    return f"{folder}/{name}"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_by_name(folder: str, form: int) -> None:
    members = dict(list(MEMBERS.items())[:4]) if form == tarfile.USTAR_FORMAT else MEMBERS
    archive = put(folder, tar(members, format=form))
    sources = Sources(1000)
    for name, data in members.items():
        assert sources.read(f"{archive}::{name}") == data
    with pytest.raises(NotFound, match=r"has no member 'b\.png'"):
        sources.read(f"{archive}::b.png")
    with pytest.raises(NotFound):
        sources.read(f"{folder}/other.tar::b.png")


def test_members_by_place_need_no_index(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_tar, "index", None)
    data = tar(MEMBERS)
    archive = put(folder, data)
    etag = storage.head(archive).etag
    for name, place in offsets(data).items():
        for crc32 in (None, zlib.crc32(MEMBERS[name])):
            assert Sources(1000).read(f"{archive}::{name}", Place(place, crc32, etag)) == MEMBERS[name]


def test_requests_and_bytes_of_a_store(s3: str) -> None:
    members = {f"{i}.png": os.urandom(50_000) for i in range(100)}
    data = tar(members)
    archive = put(s3, data)
    etag = storage.head(archive).etag
    sizes: list[int] = []
    s3_client.client().meta.events.register(
        "response-received.s3.GetObject", lambda response_dict, **_: sizes.append(int(response_dict["headers"]["Content-Length"]))
    )
    places = offsets(data)
    for name in members:
        Sources(10**6).read(f"{archive}::{name}", Place(places[name], None, etag))
    assert sizes == [50_000] * 100
    sizes.clear()
    sources = Sources(10**6)
    for name in members:
        assert sources.read(f"{archive}::{name}") == members[name]
    assert len(sizes) - 100 <= 6  # the index of 5 MB
    assert sum(sizes) - 5_000_000 <= len(data)


def test_headers_far_apart_cost_no_data_between_them(s3: str) -> None:
    archive = put(s3, tar({f"{i}.png": bytes(3 * 2**20) for i in range(6)}))
    sizes: list[int] = []
    s3_client.client().meta.events.register(
        "response-received.s3.GetObject", lambda response_dict, **_: sizes.append(int(response_dict["headers"]["Content-Length"]))
    )
    sources_tar.index(archive, None, lambda: None)
    assert sum(sizes) < 400_000


def test_another_version_is_refused_or_read_anew(folder: str) -> None:
    archive = put(folder, tar({"a.png": b"one"}))
    etag = storage.head(archive).etag
    sources = Sources(1000)
    assert sources.read(f"{archive}::a.png") == b"one"
    put(folder, tar({"0.png": b"zero", "a.png": b"another"}))
    assert sources.read(f"{archive}::a.png") == b"another"  # the row names no version
    with pytest.raises(Changed):
        sources.read(f"{archive}::a.png", Place(None, None, etag))
    with pytest.raises(Changed):
        sources.read(f"{archive}::a.png", Place((512, 3), None, etag))


def test_an_index_is_shared(tmp_path: Path) -> None:
    class Shared:
        def __init__(self) -> None:
            self.kept: dict[str, bytes] = {}

        def get(self, uri: str, fetch: object) -> bytes:
            if uri not in self.kept:
                self.kept[uri] = fetch()  # type: ignore[operator]
            return self.kept[uri]

        def forget(self, uri: str) -> None:
            self.kept.pop(uri, None)

    archive = put(str(tmp_path), tar(MEMBERS))
    shared, calls = Shared(), []
    for _ in range(2):
        sources = Sources(1000, shared, lambda: calls.append(1))
        assert sources.read(f"{archive}::a/1.png") == b"one"
    assert len(shared.kept) == 1
    put(str(tmp_path), tar({"0.png": b"zero", "a/1.png": b"another"}))
    assert sources.read(f"{archive}::a/1.png") == b"another"
    assert Sources(1000, shared).read(f"{archive}::a/1.png") == b"another"


def test_a_digest_is_compared(folder: str) -> None:
    data = tar({"a.png": b"picture"})
    archive = put(folder, data.replace(b"picture", b"piCture"))
    with pytest.raises(BadArchive, match=f"its CRC32 is {zlib.crc32(b'piCture'):08x}, and the manifest says {zlib.crc32(b'picture'):08x}"):
        Sources(1000).read(f"{archive}::a.png", Place((512, 7), zlib.crc32(b"picture")))


def test_bytes_that_come_otherwise_each_time_are_damaged_on_the_way(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = put(s3, tar({"a.png": b"picture"}))
    came = [b"1", b"2", b"3", b"picture"]
    monkeypatch.setattr(sources_tar, "read", lambda *_: came.pop(0))
    place = Place((512, 7), zlib.crc32(b"picture"))
    with pytest.raises(Corrupt, match="damaged on the way"):
        Sources(1000).read(f"{archive}::a.png", place)
    assert Sources(1000).read(f"{archive}::a.png", place) == b"picture"


# hostile tars


def info(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for key, value in more.items():
        setattr(made, key, value)
    return made


HOSTILE = [
    ("../../etc/passwd", b"x"),
    ("/etc/shadow", b"x"),
    ("a/../../b.png", b"x"),
    (info("link.png", tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
    (info("hard.png", tarfile.LNKTYPE, linkname="good.png"), b""),
    (info("dev", tarfile.CHRTYPE, devmajor=1, devminor=5), b""),
    (info("block", tarfile.BLKTYPE), b""),
    (info("pipe", tarfile.FIFOTYPE), b""),
    (info("folder", tarfile.DIRTYPE), b""),
    ("twice.png", b"1"),
    ("good.png", b"good"),
    ("twice.png", b"2"),
]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_only_plain_files_are_read(folder: str, form: int) -> None:
    archive = put(folder, tar(HOSTILE, format=form))
    sources = Sources(1000)
    assert sources.read(f"{archive}::good.png") == b"good"
    for name in ("link.png", "hard.png", "dev", "block", "pipe", "folder", "../../etc/passwd", "/etc/shadow", "a/../../b.png"):
        with pytest.raises(BadArchive, match="is no plain file"):
            sources.read(f"{archive}::{name}")
    with pytest.raises(BadArchive, match=r"more than one member 'twice\.png'"):
        sources.read(f"{archive}::twice.png")


def test_a_listing_says_what_it_refuses(tmp_path: Path) -> None:
    archive = put(str(tmp_path), tar(HOSTILE))
    found = {m.name: m.refused for m in sources_tar.walk(archive, RangedFile(archive))}
    assert found["good.png"] is found["twice.png"] is None
    assert found["link.png"] == "it is no plain file"
    assert found["/etc/shadow"] == "the member '/etc/shadow' leads out of its archive"


def test_sparse_members_are_not_read(tmp_path: Path) -> None:
    header = bytearray(info("sparse.png", tarfile.GNUTYPE_SPARSE, size=512).tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\x0000000001000\x00"  # a map of one piece
    header[483:495] = b"77777777777\x00"  # the size that it claims: 8 GB
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\x00 " % sum(header)
    archive = put(str(tmp_path), bytes(header) + bytes(512) + tar({"good.png": b"good"}))
    pax = tar(
        [
            (
                info("pax.png", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "99999999999"}),
                b"1\n0\n5\n".ljust(512, b"\0") + b"12345",
            )
        ],
        format=tarfile.PAX_FORMAT,
    )
    other = put(str(tmp_path), pax, "b.tar")
    with pytest.raises(BadArchive, match="sparse"):
        Sources(1000).read(f"{archive}::sparse.png")
    assert Sources(1000).read(f"{archive}::good.png") == b"good"
    with pytest.raises(BadArchive):
        Sources(1000).read(f"{other}::pax.png")


def test_a_claimed_member_of_ten_gigabytes(tmp_path: Path) -> None:
    claimed = info("huge.png", size=10 * 2**30).tobuf(tarfile.GNU_FORMAT)
    archive = put(str(tmp_path), tar({"good.png": b"good"})[:1024] + claimed + b"little")
    assert Sources(1000).read(f"{archive}::good.png") == b"good"
    with peak_below(4 * 2**20):
        with pytest.raises(BadArchive, match=r"is truncated: the data of its member 'huge.png' is 10,737,418,240 bytes"):
            Sources(1000).read(f"{archive}::huge.png")
        with pytest.raises(TooLarge, match=r"a.tar::huge.png: 10,737,418,240 bytes, more than the 1,000 allowed"):
            Sources(1000).read(f"{archive}::huge.png", Place((1536, 10 * 2**30)))
        with pytest.raises(BadArchive, match="ends before its byte"):
            Sources(1000).read(f"{archive}::huge.png", Place((1536, 1000)))


def test_a_large_member_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:  # with a hole: it takes no disk
        file.write(info("huge.png", size=10 * 2**30).tobuf(tarfile.GNU_FORMAT))
        file.seek(512 + 10 * 2**30)
        file.write(tar({"good.png": b"good"}))
    sources = Sources(1000)
    with pytest.raises(TooLarge, match="more than the 1,000 allowed"):
        sources.read(f"{path}::huge.png")
    assert sources.read(f"{path}::good.png") == b"good"


@pytest.mark.parametrize(
    ("pax", "name"),
    [
        ({"path": "other.png"}, "other.png"),
        ({"comment": "x" * 5000}, "a.png"),
        ({"SCHILY.xattr.user.k": "ü=\n"}, "a.png"),
        ({"hdrcharset": "BINARY"}, "a.png"),
    ],
)
def test_pax_headers(tmp_path: Path, pax: dict[str, str], name: str) -> None:
    archive = put(str(tmp_path), tar([(info("a.png", pax_headers=pax), b"data"), ("b.png", b"b")], format=tarfile.PAX_FORMAT))
    assert Sources(1000).read(f"{archive}::{name}") == b"data"
    assert Sources(1000).read(f"{archive}::b.png") == b"b"


def pax_block(record: bytes, size: int | None = None) -> bytes:
    header = info("pax", tarfile.XHDTYPE, size=len(record) if size is None else size)
    return header.tobuf(tarfile.GNU_FORMAT) + record.ljust(-(-len(record) // 512) * 512, b"\0")


@pytest.mark.parametrize(
    "odd",
    [
        pax_block(b"12 size=-512\n"),
        pax_block(b"13 size=99999\n"),
        pax_block(b"12 size=text\n"),
        pax_block(b"0 path=x\n"),
        pax_block(b"9999 path=x\n") * 3,
        pax_block(b"12 path=a\xff.p\n"),
        pax_block(b"x", size=2**33),
        pax_block(b"x", size=-(2**33)),
        pax_block(b"8 a=b\n") * 2000,
        info("n", tarfile.GNUTYPE_LONGNAME, size=2**40).tobuf(tarfile.GNU_FORMAT),
        info("neg.png", size=-1024).tobuf(tarfile.GNU_FORMAT),
        b"\xff" * 512,
        b"\0" * 512 + b"rest" * 128,
    ],
    ids=range(13),
)
def test_odd_headers_end_the_tar_and_lose_nothing_before(tmp_path: Path, odd: bytes) -> None:
    archive = put(str(tmp_path), tar({"good.png": b"good"})[:1024] + odd + tar({"after.png": b"after"}))
    sources = Sources(1000)
    assert Sources(1000).read(f"{put(str(tmp_path), tar({'good.png': b'good'}), 'b.tar')}::good.png") == b"good"  # what is imported once
    with peak_below(16 * 2**20), contextlib.suppress(BadArchive, NotFound):
        assert sources.read(f"{archive}::good.png") == b"good"
        assert sources.read(f"{archive}::after.png") in (b"after", b"")  # tarfile takes a size that is no number for 0


def raw(name: str, data: bytes, kind: bytes = tarfile.REGTYPE, **more: object) -> bytes:
    """A header that says how large its data are, whatever its kind, and the data."""
    return info(name, kind, size=len(data), **more).tobuf(tarfile.GNU_FORMAT) + data.ljust(-(-len(data) // 512) * 512, b"\0")


def base256(name: str, size: bytes) -> bytes:
    """A header whose size is a number of 88 bits."""
    header = bytearray(info(name).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\x00 " % sum(header)
    return bytes(header)


GOOD, AFTER = tar({"good.png": b"good"})[:1024], tar({"after.png": b"after"})
REFUSED, LOST = "is no plain file", "damaged"


@pytest.mark.parametrize(
    ("middle", "name", "said", "after"),
    [
        (raw("hard.png", b"hard", tarfile.LNKTYPE, linkname="good.png"), "hard.png", REFUSED, LOST),  # tarfile gives a link no data
        (raw("label", b"", b"V"), "label", REFUSED, None),
        (raw("part.png", b"part", b"M"), "part.png", REFUSED, None),  # a file that began in another volume
        (raw("new.png", b"new", b"Z"), "new.png", REFUSED, None),
        (raw("flat.png", b"flat", tarfile.CONTTYPE), "flat.png", b"flat", None),  # a plain file of old systems
        (raw("old.png/", b"", tarfile.AREGTYPE), "old.png", REFUSED, None),  # a folder of old systems
        (base256("huge.png", b"\x7f" * 11), "huge.png", "is truncated: the data of its member", "is truncated"),
        (pax_block(b"16 path=a\0b.png\n") + raw("c.png", b"c"), "a\0b.png", REFUSED, None),
        (pax_block(b"14 path=a.png\n") * 1500 + raw("c.png", b"c"), "a.png", "RecursionError|claim more than", "RecursionError|claim more than"),
        (pax_block(b"9 size=1\n") + raw("c.png", b"c" * 600), "c.png", b"c", LOST),  # the rest of its data is no header
        (raw("", b"empty"), "", REFUSED, None),
    ],
    ids=range(11),
)
def test_odd_members(tmp_path: Path, middle: bytes, name: str, said: bytes | str, after: str | None) -> None:
    """What comes before is read, and what comes behind if the tar goes on there."""
    archive = put(str(tmp_path), GOOD + middle + AFTER)
    sources = Sources(1000)
    for member, wanted in (("good.png", b"good"), (name, said), ("after.png", after or b"after")):
        if isinstance(wanted, bytes):
            assert sources.read(f"{archive}::{member}") == wanted
        else:
            with pytest.raises(BadArchive, match=wanted):
                sources.read(f"{archive}::{member}")


def test_pax_headers_for_all_members(tmp_path: Path) -> None:
    archive = put(str(tmp_path), tar({"a.png": b"one", "b.png": b"two"}, format=tarfile.PAX_FORMAT, pax_headers={"path": "same.png"}))
    with pytest.raises(BadArchive, match=r"more than one member 'same\.png'"):
        Sources(1000).read(f"{archive}::same.png")
    with pytest.raises(NotFound):
        Sources(1000).read(f"{archive}::a.png")


@pytest.mark.parametrize("more", [AFTER, b"other"], ids=["tar", "other"])
def test_what_follows_the_end_of_a_tar_is_not_lost_without_a_word(folder: str, more: bytes) -> None:
    archive = put(folder, tar({"good.png": b"good"}) + more)
    assert Sources(1000).read(f"{archive}::good.png") == b"good"
    with pytest.raises(BadArchive, match=r"something follows the end of the tar: it is several tars .* before that it has no member 'after\.png'"):
        Sources(1000).read(f"{archive}::after.png")
    with pytest.raises(BadArchive, match="give each a file of its own, or join them with tar --concatenate"):
        list(sources_tar.walk(archive, RangedFile(archive)))


def test_a_tar_of_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_tar, "MAX_MEMBERS", 3)
    archive = put(str(tmp_path), tar({f"{i}.png": b"x" for i in range(5)}))
    assert Sources(1000).read(f"{archive}::2.png") == b"x"
    with pytest.raises(BadArchive, match="has more than 3 members; before that it has no member '4"):
        Sources(1000).read(f"{archive}::4.png")


def test_a_truncated_tar_gives_what_is_there(folder: str) -> None:
    members = {f"{i}.png": bytes([i]) * 700 for i in range(5)}
    whole = tar(members)
    places = offsets(whole)
    for length in (places["3.png"][0] + 100, places["3.png"][0] - 512, places["3.png"][0] - 300, places["3.png"][0]):
        archive = put(folder, whole[:length])
        sources = Sources(1000)
        for i in range(3):
            assert sources.read(f"{archive}::{i}.png") == members[f"{i}.png"]
        for i in (3, 4):
            with pytest.raises(BadArchive, match="truncated"):
                sources.read(f"{archive}::{i}.png")
        with pytest.raises(BadArchive, match="ends before"):
            sources.read(f"{archive}::4.png", Place(places["4.png"]))


@pytest.mark.parametrize("data", [b"", b"no tar", b"\x1f\x8b" + os.urandom(2000), b"\0" * 100, os.urandom(5000)])
def test_what_is_no_tar(folder: str, data: bytes) -> None:
    archive = put(folder, data)
    with pytest.raises(BadArchive, match="no tar"):
        Sources(1000).read(f"{archive}::a.png")


def test_flipped_bytes_raise_nothing_else(tmp_path: Path) -> None:
    whole = bytearray(tar(HOSTILE[:6] + [(f"{i}.png", b"x" * 300) for i in range(6)], format=tarfile.PAX_FORMAT))
    draw = random.Random(1)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        archive = str(tmp_path / "a.tar")
        Path(archive).write_bytes(data)
        for name in ("0.png", "5.png"):
            with contextlib.suppress(BadArchive, NotFound, TooLarge):
                Sources(1000).read(f"{archive}::{name}")


def test_members_are_told_apart_from_files_of_that_name(tmp_path: Path) -> None:
    archive = put(str(tmp_path), tar({"b": b"member"}))
    (tmp_path / "a.tar::b").write_bytes(b"file")
    assert Sources(1000).read(f"{archive}::b") == b"member"
    assert Sources(1000).read(f"{tmp_path}/./a.tar::b") == b"file"
