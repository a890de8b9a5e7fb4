"""All that a server of pages with Vitessce answers with."""

from __future__ import annotations

import html
from collections.abc import Mapping
from importlib.resources import files
from urllib.parse import quote

from harpy_core.viewing.scenes import Scene
from harpy_core.viewing.serving import Content, Server


def serve(scenes: Mapping[str, Scene], bundle: Mapping[str, bytes], port: int = 0) -> None:
    """Serve pages until Ctrl-C, and print their addresses.

    Parameters
    ----------
    scenes
        What a page shows, by its name.
    bundle
        Scripts, from `harpy_core.viewing.bundles.read_bundle`.
    port
        Port to listen on; 0 takes one that is free.

    Raises
    ------
    InputError
        The port is taken.
    """
    server = Server(site_of(scenes, bundle), port)
    for name, scene in scenes.items():
        print(f"{server.url}{place_of(name)}: {scene.instances:,} instances")
        for line in scene.left_out:
            print(f"  {line}")
    print("Ctrl-C ends this.", flush=True)
    server.run()
    print("stopped", flush=True)


def site_of(scenes: Mapping[str, Scene], bundle: Mapping[str, bytes]) -> dict[str, Content]:
    """Put pages together with their scripts, and an index of the pages.

    Parameters
    ----------
    scenes
        What a page shows, by its name.
    bundle
        Scripts, from `harpy_core.viewing.bundles.read_bundle`.
    """
    modules = files("harpy_core.viewing").joinpath("modules").iterdir()
    links = "\n".join(
        f'<li><a href="/{place_of(name)}">{html.escape(name)}</a></li>' for name in scenes
    )
    index = (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Images</title>\n'
        f"<ul>\n{links}\n</ul>\n</html>\n"
    )
    return {
        **{f"view/{name}/": scene for name, scene in scenes.items()},
        "npm/": dict(bundle),
        "page/": {module.name: module.read_bytes() for module in modules if module.is_file()},
        "": {"": index.encode()},
    }


def place_of(name: str) -> str:
    """Path of a page in an address, without a leading slash."""
    return quote(f"view/{name}/")
