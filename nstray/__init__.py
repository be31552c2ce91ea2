"""nstray: stylised datasets by the optimisation of Gatys, Ecker and Bethge, on Ray."""

__version__ = "0.1.0"
