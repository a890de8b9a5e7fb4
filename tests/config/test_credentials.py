"""Credentials are refused wherever a config could hold them, and no error shows them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from harpy_core.config.mistakes import load
from harpy_core.errors import InputError
from harpy_core.raster.info import RasterInfo

HIDDEN = "hunter2"
"""Secrets that no error may show and no file may hold."""

SECRET_OPTIONS = [
    ("s3", {"key": HIDDEN, "secret": HIDDEN}, "key"),
    ("s3", {"anon": False, "token": HIDDEN}, "token"),
    ("s3", {"client_kwargs": {"aws_secret_access_key": HIDDEN}}, "client_kwargs.aws_secret_acce"),
    ("s3", {"config_kwargs": {"proxies": {"https": HIDDEN}}}, "config_kwargs.proxies"),
    ("s3", {"profile": {"aws_secret_access_key": HIDDEN}}, "profile"),
    ("s3", {"endpoint_url": f"https://me:{HIDDEN}@minio.lab"}, "endpoint_url"),
    ("s3", {"client_kwargs": {"endpoint_url": f"https://minio.lab/?sig={HIDDEN}"}}, "client_kwarg"),
    ("s3", {"s3_additional_kwargs": {"SSECustomerKey": HIDDEN}}, "s3_additional_kwargs"),
    ("s3", {"username": "me", "password": HIDDEN}, "username"),
    ("gs", {"token": HIDDEN}, "token"),
    ("gs", {"token": {"private_key": HIDDEN}}, "token"),
    ("abfs", {"account_name": "lab", "account_key": HIDDEN}, "account_key"),
    ("abfs", {"sas_token": HIDDEN}, "sas_token"),
    ("az", {"connection_string": HIDDEN}, "connection_string"),
    ("az", {"credential": HIDDEN}, "credential"),
    ("https", {"client_kwargs": {"headers": {"Authorization": HIDDEN}}}, "client_kwargs.headers"),
    ("https", {"headers": {"Authorization": HIDDEN}}, "headers"),
    ("https", {"KEY": HIDDEN}, "KEY"),
]

SECRET_ADDRESSES = [
    f"https://me:{HIDDEN}@host/i.zarr",
    f"https://{HIDDEN}@host/i.zarr",
    f"https://me:{HIDDEN}/2@host/i.zarr",
    f"https://me%3A{HIDDEN}@host/i.zarr",
    f"s3://AKIA:{HIDDEN}@bucket/i.zarr",
    f"https://host/i.zarr.zip?X-Amz-Signature={HIDDEN}",
    f"https://host/i.zarr?{HIDDEN}",
    f"https://host/i.zarr#{HIDDEN}",
    f"abfs://images@lab.dfs.core.windows.net/i.zarr?sv=1&sig={HIDDEN}",
    f"abfs://images:{HIDDEN}@lab.dfs.core.windows.net/i.zarr",
]


def of(**source: Any) -> dict[str, Any]:
    return {"cases": {"slide": {"source": source}}}


def refused(config: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as caught:
        load(config, "f.yaml")
    told = str(caught.value)
    assert told.startswith(f"f.yaml: {key}")
    assert HIDDEN not in told
    assert "\n" not in told


@pytest.mark.parametrize(("protocol", "options", "named"), SECRET_OPTIONS)
def test_an_option_that_may_be_a_secret_is_refused_by_its_name(
    protocol: str, options: dict[str, Any], named: str
) -> None:
    source = of(uri=f"{protocol}://bucket/i.zarr", storage_options=options)
    refused(source, f"cases.slide.source.storage_options: {named}")
    elsewhere = of(uri="i.zarr", labels=f"{protocol}://b/l.zarr", storage_options=options)
    refused(elsewhere, f"cases.slide.source.storage_options: {named}")


@pytest.mark.parametrize("address", SECRET_ADDRESSES)
def test_an_address_that_may_hold_a_secret_is_refused_without_showing_it(address: str) -> None:
    refused(of(uri=address), "cases.slide.source.uri: the address")
    refused(of(uri="i.zarr", labels=address), "cases.slide.source.labels: the address")
    for place in ("mirror", "store"):
        datasets = {"datasets": {"macsima-tonsil": {place: address}}}
        if place == "store" or address.startswith("http"):
            refused(of(uri="ihc") | datasets, f"datasets.macsima-tonsil.{place}: the address")


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("s3://bucket/i.zarr", {"anon": False, "endpoint_url": "https://minio.lab:9000"}),
        ("s3://bucket/odd+name#1.zarr", {"profile": "lab"}),
        (
            "s3://bucket/i.zarr",
            {
                "client_kwargs": {"region_name": "eu-west-1", "verify": False},
                "config_kwargs": {"s3": {"addressing_style": "path"}},
            },
        ),
        ("gs://bucket/i.zarr", {"token": "google_default", "project": "lab"}),
        ("abfs://images@lab.dfs.core.windows.net/i.zarr", {"account_name": "lab", "anon": False}),
        ("https://host:8443/i.zarr", {"client_kwargs": {"trust_env": True}}),
        ("a folder/with? @ and #.zarr", None),
    ],
)
def test_what_holds_no_secret_is_taken(uri: str, options: dict[str, Any] | None) -> None:
    source = load(of(uri=uri, storage_options=options), "f.yaml").cases["slide"].source
    assert source is not None
    assert (source.uri, source.storage_options) == (uri, options)


def test_options_are_those_of_the_protocol() -> None:
    refused(of(uri="https://h/i.zarr", storage_options={"profile": "x"}), "cases.slide.source.stor")


@pytest.mark.parametrize(
    "source",
    [
        {"uri": "s3://b/i.zarr", "storage_option": {"key": HIDDEN}},
        {"uri": "s3://b/i.zarr", "secret": HIDDEN},
        {"uri": "s3://b/i.zarr", "secrets": [HIDDEN]},
        {"uri": "s3://b/i.zarr", "level": f"https://me:{HIDDEN}@host/{'x' * 90}"},
        {"uri": "s3://b/i.zarr", "level": {"secret": HIDDEN}},
        {"uri": {"address": HIDDEN}},
    ],
)
def test_no_other_mistake_shows_what_may_be_a_secret(source: dict[str, Any]) -> None:
    refused(of(**source), "cases.slide.source.")


@pytest.mark.parametrize(
    "changed",
    [
        {"storage_options": {"key": "AKIA", "secret": HIDDEN}},
        {"uri": f"https://me:{HIDDEN}@host/i.zarr"},
        {"labels": f"https://host/l.zarr?sig={HIDDEN}"},
    ],
)
def test_a_description_with_credentials_is_not_written(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    info = RasterInfo(
        *("s3://b/i.zarr", "image", "cells", ["a"]),
        *((1, 8, 8), (1, 8, 8), "uint16", (8, 8), (8, 8), "uint32", "0"),
    )
    info.to_json(tmp_path / "fine.json")
    assert json.loads((tmp_path / "fine.json").read_text())["uri"] == info.uri
    with pytest.raises(InputError) as caught:
        dataclasses.replace(info, **changed).to_json(tmp_path / "source.json")
    assert HIDDEN not in str(caught.value)
    assert not (tmp_path / "source.json").exists()


def test_errors_show_addresses_without_user_and_query() -> None:
    told = f"https://me:{HIDDEN}@host/a.zarr?sig={HIDDEN}&x=1: nothing there (s3://k:{HIDDEN}@b/c)"
    shown = "https://***@host/a.zarr?***: nothing there (s3://***@b/c)"
    assert str(InputError(told)) == shown
