"""Figures as SVG and PNG, from numbers alone."""
