"""Pictures whose drawing is most of the time of a short run."""

from matplotlib.figure import Figure

from evaluation.report import plots

draw = plots._save


def leave_blank():
    """Let this process compose all plots, and write in their place what needs neither layout nor drawing."""
    plots._save = _save_blank


def _save_blank(figure, path):
    return draw(Figure(figsize=figure.get_size_inches(), dpi=figure.dpi), path)
