"""The templates of every page of the package. They share one look, and a page holds everything that it needs."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from geneval_reward.judge.boxes import FAINT, PALETTE
from geneval_reward.results.notation import percent_text, share_interval, share_text


@cache
def environment() -> Environment:
    """Make a Jinja2 environment that escapes what it inserts and refuses unknown names."""
    environment = Environment(
        loader=FunctionLoader(source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["box_legend"] = (
        *zip(PALETTE, ("first class of the record", "second class", "third class"), strict=False),
        (FAINT, "thin grey: detected, but not confident enough to count"),
    )
    # Style sheets and scripts are ours, and their quotes must not become entities.
    environment.globals["asset"] = lambda name: Markup(source(name))
    environment.filters["share"] = share_text
    environment.filters["interval"] = lambda interval: share_interval(interval.low, interval.high)
    environment.filters["level"] = percent_text
    environment.filters["percent"] = lambda share: f"{100 * share:.2f}%"
    return environment


@cache
def source(name: str) -> str:
    """Read a template, style sheet or script of this folder."""
    return (files("geneval_reward.study.report") / name).read_text("utf-8")


def script_hash(script: str) -> str:
    """Return a script's source expression for a content security policy (W3C CSP level 2, section 4.2.5)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def embed_json(value: Any) -> Markup:
    """Write JSON without any character that could end the script element that holds it, or open another."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def data_address(data: bytes, kind: str) -> str:
    """Encode bytes as an address that needs no request."""
    return f"data:{kind};base64," + base64.b64encode(data).decode()
