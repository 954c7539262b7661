import numpy as np
import pandas as pd
import pytest

from gsnr_toolkit.report.plots.rho_history import plot_rho_history


def test_what_is_drawn_is_the_history():
    history = pd.DataFrame(
        {"step": range(5), "loss": [0.7, 0.69, 0.5, 0.3, 0.2], "grad_norm": [0.1, 0.2, 3, 2, 1.0], "plateau_loss": 0.7}
    ).assign(rho=[0, 0, 0.02, 0.05, 0.04])
    figure = plot_rho_history(history)
    for ax, column in zip(figure.axes, ("loss", "grad_norm", "rho"), strict=True):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), history[column])
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), 0.7)
    assert figure.axes[1].get_yscale() == "log"


@pytest.mark.parametrize("history", [pd.DataFrame(), pd.DataFrame({"step": [0], "loss": [1.0]})])
def test_a_history_without_its_columns_is_named(history):
    with pytest.raises(ValueError, match=r"optimizer\.rho_history"):
        plot_rho_history(history)
