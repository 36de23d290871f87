"""Plots of policies and trials, the HTML report, and its live page."""
