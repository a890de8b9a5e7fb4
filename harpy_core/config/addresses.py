"""Addresses and options without credentials, because a config is copied to logs and results.

Options that are known to hold no secret are allowed, by protocol; all others are refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

REMEDY = (
    "what is given here is copied to logs and results: keep credentials in the environment or a "
    "profile"
)

Allowed = Mapping[str, Any]
"""Options by name: None if any plain value is harmless, else the harmless values or a mapping."""


def _plain(names: str) -> Allowed:
    return dict.fromkeys(names.split())


_CACHING = _plain(
    "skip_instance_cache use_listings_cache listings_expiry_time max_paths cache_regions "
    "default_block_size default_cache_type default_fill_cache block_size cache_type "
    "max_concurrency version_aware"
)
_S3 = {
    **_CACHING,
    **_plain("anon profile endpoint_url use_ssl requester_pays"),
    "client_kwargs": _plain("region_name endpoint_url use_ssl verify"),
    "config_kwargs": {
        **_plain("region_name signature_version connect_timeout read_timeout max_pool_connections"),
        "s3": _plain("addressing_style"),
        "retries": _plain("mode max_attempts total_max_attempts"),
    },
}
_GOOGLE = {
    **_CACHING,
    **_plain("project access consistency requester_pays endpoint_url default_location timeout"),
    "token": ("anon", "google_default", "cloud"),
}
_AZURE = {
    **_CACHING,
    **_plain("anon account_name account_host tenant_id client_id location_mode blocksize"),
}
_WEB = {
    **_CACHING,
    **_plain("simple_links same_scheme size_policy encoded"),
    "client_kwargs": _plain("trust_env"),
}

OPTIONS: dict[str, Allowed] = {
    "s3": _S3,
    "s3a": _S3,
    "gs": _GOOGLE,
    "gcs": _GOOGLE,
    "abfs": _AZURE,
    "az": _AZURE,
    "http": _WEB,
    "https": _WEB,
}
"""Options of each protocol that are known to hold no secret."""

_NAMED_BEFORE_THE_HOST = ("abfs", "az")
"""Protocols whose addresses may be container@account."""


def expanded(text: str) -> str:
    """Return a path with ``~`` and ``$NAMES`` replaced by what they mean; an address as it is."""
    return text if "://" in text else os.path.expandvars(os.path.expanduser(text))


def address_trouble(text: str) -> str | None:
    """Reason why an address may hold credentials; None if it holds none, or is a path.

    The address is no part of the answer.
    """
    protocol, separator, _ = text.partition("://")
    if not separator:
        return None
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return "the address has no valid host and port; correct it"
    user = parts.netloc.rpartition("@")[0]
    if user and (protocol not in _NAMED_BEFORE_THE_HOST or ":" in user):
        return f"the address holds a user or password, and {REMEDY}"
    if parts.query or (protocol in ("http", "https") and parts.fragment):
        return f"the address holds a query, which may sign it, and {REMEDY}"
    return None


def options_trouble(options: Mapping[str, Any], protocols: Iterable[str] = ()) -> str | None:
    """Reason why options may hold a secret; None if all are known to hold none.

    Parameters
    ----------
    options
        Options for fsspec.
    protocols
        Protocols of the addresses that they are for; all known ones if there are none.
    """
    known = [OPTIONS[name] for name in protocols if name in OPTIONS] or list(OPTIONS.values())
    for name, value in options.items():
        troubles = [_trouble(name, value, allowed) for allowed in known]
        if all(troubles):
            return troubles[0]
    return None


def _trouble(name: str, value: Any, allowed: Allowed, inside: str = "") -> str | None:
    """Reason why one option may hold a secret."""
    where = f"{inside}{name}"
    if name not in allowed:
        names = ", ".join(sorted(allowed))
        return f"{where} may be a secret, and {REMEDY}; {inside or 'options '}may be {names}"
    rule = allowed[name]
    if isinstance(rule, Mapping):
        if not isinstance(value, Mapping):
            return f"{where} is a mapping of {', '.join(sorted(rule))}"
        inner = (_trouble(str(key), held, rule, f"{where}.") for key, held in value.items())
        return next(filter(None, inner), None)
    if rule is not None and value not in rule:
        return f"{where} may be a secret, and {REMEDY}; harmless are {', '.join(rule)}"
    if value is not None and not isinstance(value, (bool, int, float, str)):
        return f"{where} is text, a number, true, false or null"
    trouble = address_trouble(value) if isinstance(value, str) else None
    return trouble and f"{where}: {trouble}"
