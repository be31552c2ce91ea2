"""Files that are no JPEG, PNG or WebP, whatever their names say."""

from __future__ import annotations

import gzip

import numpy as np
from PIL import Image

from corpus.case import BROKEN, FOREIGN, NO_IMAGE, Case, bad, base, either, save
from corpus.kinds import HTML, archive
from nstray.errors import ErrorCode

EMPTY = frozenset({ErrorCode.EMPTY_FILE})


def cases() -> list[Case]:
    noise = np.random.default_rng(6).integers(128, 256, 3000, dtype=np.uint8).tobytes()
    texts = {
        "page.jpg": HTML,
        "page-utf16.jpg": HTML.decode().encode("utf-16"),
        "page-cut-in-a-character.jpg": b"<html>" + "ü".encode() * 3000,
        "error.png": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        "object.webp": b'{"message": "forbidden"}',
        "words.jpg": b"no picture here\n",
        "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "archive.jpg": archive(),
        "packed.png": gzip.compress(save(base(), "PNG"), mtime=0),
        "document.jpg": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "program.png": b"\x7fELF\2\1\1" + bytes(60),
        "script.png": b"#!/bin/sh\nrm -rf /\n",
        "zeros.png": bytes(10_000),
        "ones.jpg": b"\xff" * 10_000,
        "noise.jpg": noise,
        "one-byte.png": b"\x89",
        "one-newline.txt": b"\n",
        "two-bytes.jpg": b"\xff\xd8",
        "seven-bytes.png": b"\x89PNG\r\n\x1a",
        "line-ends-changed.png": save(base(), "PNG").replace(b"\r\n", b"\n"),
        "eleven-bytes.webp": b"RIFF\0\0\0\0WEB",
        "sound.webp": b"RIFF\x24\0\0\0WAVEfmt " + bytes(20),
        "byte-order-mark.png": b"\xff\xfe",
        "half-a-utf16.png": b"\xff\xfe<",
    }
    foreign = {
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg' width='2147483647' height='2147483647'/>",
        "entities.svg": b"<?xml version='1.0'?><!DOCTYPE s [<!ENTITY a 'aa'><!ENTITY b '&a;&a;&a;'>]><svg>&b;</svg>",
        "phone.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
        "wavelets.jpg": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
        "layers.png": b"8BPS\0\1" + bytes(40),
    }
    Image.init()
    made = {f"a-{f.lower()}.png": save(base(), f) for f in ("GIF", "BMP", "TIFF", "ICO", "PPM") if f in Image.SAVE}
    return [
        *(bad(name, data, NO_IMAGE) for name, data in texts.items()),
        *(bad(name, data, FOREIGN) for name, data in (foreign | made).items()),
        bad("empty.png", b"", EMPTY),
        bad("empty", b"", EMPTY),
        *(
            bad(f"signature-alone.{name}", data)
            for name, data in (("png", b"\x89PNG\r\n\x1a\n"), ("jpg", b"\xff\xd8\xff"), ("webp", b"RIFF\0\0\0\0WEBP"))
        ),
        *(
            either(f"signature-and-noise.{name}", data + noise, BROKEN, None)
            for name, data in (("png", b"\x89PNG\r\n\x1a\n"), ("jpg", b"\xff\xd8\xff\xe0"))
        ),
    ]
