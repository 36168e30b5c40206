"""`jax-ssp reproduce`: measure the claims of papers."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from pathlib import Path
from typing import Any

from jax_ssp.cli import exits
from jax_ssp.cli.config_file import imported
from jax_ssp.cli.usage import UsageError, usage_errors
from jax_ssp.failures import DONE


def declare(commands: Any) -> None:
    paper = commands.add_parser("reproduce", help="measure a paper's claims; --list shows which")
    paper.add_argument("names", nargs="*", metavar="NAME", help="which; `all` for all of them")
    paper.add_argument("--list", action="store_true", help="list the papers")
    sizes = "smoke only shows that it runs, laptop takes minutes, paper is as large as the paper's"
    paper.add_argument(
        "--size", choices=("smoke", "laptop", "paper"), default="laptop", help=f"{sizes} (laptop)"
    )
    paper.add_argument("--seeds", type=int, default=3, help="of each random run (3)")
    paper.add_argument("--redraw", action="store_true", help="figure and text from the JSON alone")
    paper.add_argument("--papers", type=Path, default=Path("experiments/papers"), metavar="DIR")
    folders = "experiments/results/papers; what smoke measures goes to runs/papers"
    paper.add_argument("--folder", type=Path, metavar="DIR", help=folders)
    paper.set_defaults(command=reproduce)


def reproduce(options: argparse.Namespace, rest: list[str]) -> int:
    from jax_ssp.files import FolderLock
    from jax_ssp.report.tables import print_table

    papers = _papers(options.papers)
    if options.list or not options.names:
        print_table([{"name": name, "paper": paper.title} for name, paper in papers.items()])
        return DONE
    names = list(papers) if "all" in options.names else options.names
    for name in names:
        if name not in papers:
            near = difflib.get_close_matches(name, papers, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(papers)}"
            raise UsageError(f"there is no paper {name!r} here{hint}")
    if options.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {options.seeds}")
    published = options.papers.parent / "results" / "papers"
    trial = options.size == "smoke" and not options.redraw
    folder = options.folder or (Path("runs") / "papers" if trial else published)
    with usage_errors():
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--folder {folder} cannot be written to")
    with usage_errors():
        lock = FolderLock(folder)
    exits.early.undo.append(lock.release)
    try:
        return _reproduced(names, papers, folder, options)
    finally:
        lock.release()


def _reproduced(
    names: list[str], papers: dict[str, Any], folder: Path, options: argparse.Namespace
) -> int:
    from jax_ssp.report.papers import agreement, checked, gallery, redraw
    from jax_ssp.report.papers import reproduce as measured
    from jax_ssp.report.tables import print_table

    for name in names:
        if options.redraw:
            with usage_errors():
                content = redraw(name, papers[name], folder)
        else:
            print(f"{name}: measuring at size {options.size}", file=sys.stderr)
            content = measured(name, papers[name], options.size, options.seeds, folder)
        claims = checked(papers[name], content["rows"])
        print_table(claims, title=f"{papers[name].title}: agreement {agreement(claims)}")
    with usage_errors():
        gallery(papers, folder)
    print(f"gallery: {folder / 'README.md'}")
    return DONE


def _papers(folder: Path) -> dict[str, Any]:
    """The papers in a folder, files or packages, by name and in the order of their numbers."""
    from jax_ssp.report.papers import Paper

    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; give it by --papers")
    papers: dict[str, Any] = {}
    for file in sorted([*folder.glob("[a-z]*.py"), *folder.glob("[a-z]*/__init__.py")]):
        with usage_errors():
            paper = getattr(imported(file), "PAPER", None)
        if isinstance(paper, Paper):
            papers[file.parent.name if file.stem == "__init__" else file.stem] = paper
    return dict(sorted(papers.items(), key=lambda item: item[1].number))
