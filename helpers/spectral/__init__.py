"""Eigenvalue spectra of weights and their power laws (notebook 03)."""

from helpers.spectral.fits import (  # noqa: F401
    PowerLawFit,
    eigenvalues,
    fit_power_law,
    median_starts,
    mp_alpha,
    mp_pdf,
    mp_quantile,
    mp_support,
    peak_starts,
    tail_alpha,
    windows,
)
from helpers.spectral.norms import (  # noqa: F401
    input_norms,
)
