"""The output's own columns, in order: what a manifest's carried columns may not be called."""

from __future__ import annotations

RESERVED: tuple[str, ...] = (
    "pair_id",
    "image",
    "status",
    "error_code",
    "error_message",
    "content_uri",
    "style_uri",
    "content_sha256",
    "style_sha256",
    "width",
    "height",
    "loss_total",
    "loss_content",
    "loss_style",
    "loss_tv",
    "loss_range",
    "loss_curve",
    "iterations",
    "evaluations",
    "seconds",
    "device",
    "dtype",
    "seed",
    "weights_id",
    "config_fingerprint",
    "nstray_version",
    "attempt",
    "created_at",
)
