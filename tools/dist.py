"""`make dist`: build the files of a release and try them out where nothing else of this checkout is.

The sdist is built first and the wheel from it, so a file that the sdist lacks is missed here.
"""

from __future__ import annotations

import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from email.parser import Parser
from pathlib import Path

from airflow_provider_aisa.sandbox import Sandbox
from airflow_provider_aisa.version import __version__
from tools.matrix.commands import CommandFailed, Commands
from tools.matrix.series import ROOT, Series
from tools.matrix.venvs import Venv, VenvError, uv
from tools.seaweedfs import SeaweedFS

DIST = ROOT / "dist"
BUCKET, IMAGES = "my-images", 2  # of dags_examples/quickstart.py
RELATIVE_LINK = re.compile(r"\]\((?!https?://|#)[^)]+\)")
IMPORTS = (
    "import airflow_provider_aisa as a; print([getattr(a, name) for name in a.__all__]); print(a.__file__)"
)


def main() -> int:
    """Build and check; return 1 and say why when something is wrong."""
    shutil.rmtree(DIST, ignore_errors=True)
    try:
        uv("build", "--out-dir", str(DIST), str(ROOT))
        [sdist], [wheel] = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
        problems = [*problems_of_files(sdist, wheel), *problems_of_metadata(wheel)]
        with tempfile.TemporaryDirectory(prefix="aisa-dist-") as folder:
            problems += try_out(wheel, Path(folder))
    except (VenvError, CommandFailed) as error:
        problems = [str(error)]
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    if not problems:
        print(f"{sdist.relative_to(ROOT)} and {wheel.relative_to(ROOT)} are built and work")
    return int(bool(problems))


def problems_of_files(sdist: Path, wheel: Path) -> list[str]:
    """Return what is missing in the two files, or too much."""
    with tarfile.open(sdist) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        installed = set(archive.namelist())
    needed = ("README.md", "LICENSE", "CHANGELOG.md", "docs/paying-once.md", "dags_examples/quickstart.py")
    problems = [f"{sdist.name} has no {name}" for name in needed if name not in source]
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "airflow_provider_aisa").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    problems += [f"{wheel.name} has no {name}" for name in sorted(package - installed)]
    foreign = {name for name in installed - package if ".dist-info/" not in name}
    return problems + [f"{wheel.name} has {name}, which is not in the package" for name in sorted(foreign)]


def problems_of_metadata(wheel: Path) -> list[str]:
    """Return what a package index would show wrongly."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    problems = [] if metadata["Version"] == __version__ else [f"{wheel.name} says {metadata['Version']}"]
    links = RELATIVE_LINK.findall(str(metadata.get_payload()))
    return problems + [f"the README links to {link[2:-1]}, which no package index has" for link in links]


def try_out(wheel: Path, folder: Path) -> list[str]:
    """Install the wheel where nothing else is, list it, import it, and run the quickstart."""
    venv = Venv(folder / "venv")
    newest = Series("3.3.2")
    uv("venv", "--python", sys.executable, str(venv.path))
    pins = ("--constraint", str(newest.constraints))
    uv("pip", "install", "--python", str(venv.python), *pins, f"apache-airflow=={newest.airflow}", str(wheel))
    home = folder / "home"
    home.mkdir()
    commands = Commands(venv, home, ROOT / "dags_examples", directory=folder)
    problems = []
    if __version__ not in (listed := commands.airflow("providers", "get", "airflow-provider-aisa")):
        problems.append(f"`airflow providers get` does not say {__version__}: {listed}")
    imported = commands.run([venv.python, "-c", IMPORTS])
    if imported.returncode or str(venv.path) not in imported.stdout:
        problems.append(f"the public names cannot be imported: {imported.stdout}{imported.stderr}")
    return problems + run_quickstart(commands)


def run_quickstart(commands: Commands) -> list[str]:
    """Run the first example against a sandbox, and return what is wrong with what it did."""
    with Sandbox() as gateway, SeaweedFS() as store:
        store.create_bucket(BUCKET)
        connections = {
            "AIRFLOW_CONN_AISA_DEFAULT": gateway.connection,
            "AIRFLOW_CONN_AWS_DEFAULT": store.airflow_connection(),
        }
        commands.airflow("db", "migrate")
        commands.airflow("dags", "test", "quickstart", env=connections)
        found = store.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])
        images = [item["Key"] for item in found if item["Key"].endswith(".png")]
        if (gateway.billed, len(images)) == (IMAGES, IMAGES):
            return []
        return [f"the quickstart was billed {gateway.billed} images and stored {len(images)}, not {IMAGES}"]


if __name__ == "__main__":
    sys.exit(main())
