# Where the rules find the package, and the first look at the config's text.

import os
import sys
from pathlib import Path

# Not workflow.basedir: another workflow may import this one, from an address too. A checkout's
# jobs import its package, whichever environment they run in; others import the installed one.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
if (ROOT / "harpy_core").is_dir():
    sys.path.insert(0, str(ROOT))
    PYTHON_PATH = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    os.environ.update(
        PYTHONPATH=os.pathsep.join(PYTHON_PATH), HARPY_CORE_SOURCE=str(ROOT)
    )

from harpy_core.config.syntax import check_syntax
from harpy_core.errors import ending_in_its_lines

# The files of a workflow that imports this one are its own.
if not workflow.modifier.skip_configfile:
    with ending_in_its_lines():
        check_syntax(workflow.overwrite_configfiles or ["config/config.yaml"])
