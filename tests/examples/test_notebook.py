"""The example notebook, run from top to bottom by a real kernel."""

import json
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "notebook.ipynb"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the notebook with the outputs of a fresh run."""
    content = nbformat.reads(NOTEBOOK.read_text(), as_version=4)  # type: ignore[no-untyped-call]
    resources = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    client = nbclient.NotebookClient(content, timeout=20, kernel_name="python3", resources=resources)
    return client.execute()


def printed_by(notebook: Any, fragment: str) -> str:
    """Return what the one cell whose source contains *fragment* printed."""
    (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and fragment in cell.source]
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def widget_values(notebook: Any, model: str, name: str) -> list[Any]:
    """Return the state *name* of every widget of class *model*, in the order in which they were made."""
    states = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    return [state["state"][name] for state in states if state["model_name"] == model and name in state["state"]]


def test_notebook_is_stored_without_outputs() -> None:
    """What a reader sees in the file never differs from what the code does."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in cells] == [([], None)] * len(cells)


def test_functions_and_classes_of_cells_run_in_worker_processes(notebook: Any) -> None:
    """Items, results and providers of cells come through, and results have the cell's own class."""
    assert printed_by(notebook, "class Word") == "625 True bbba: 1\n"


def test_bar_counts_to_the_end(notebook: Any) -> None:
    """The widget of a finished run shows as many items as went in."""
    bars = list(
        zip(
            widget_values(notebook, "FloatProgressModel", "value"),
            widget_values(notebook, "FloatProgressModel", "max"),
            strict=True,
        )
    )
    assert (625.0, 625.0) in bars
    assert (1000.0, 1000.0) in bars
    assert any("625/625" in text for text in widget_values(notebook, "HTMLModel", "value"))


def test_provider_defined_again_is_a_new_one(notebook: Any) -> None:
    """The next run uses the new provider; the old one's engine is closed at shutdown, not before."""
    assert printed_by(notebook, 'yield "first engine"') == "{'first engine': 100}\n"
    assert printed_by(notebook, 'yield "second engine"') == "{'second engine': 100} closed so far: 0\n"
    assert printed_by(notebook, "pool.shutdown()") == "all closed: True True\n"


def test_interrupted_run_leaves_the_pool_usable(notebook: Any) -> None:
    """The interrupt ends one run only."""
    assert printed_by(notebook, "os.kill") == "interrupted\n"
    assert printed_by(notebook, "sum(pool.map") == f"{sum(n * n for n in range(1000))}\n"
