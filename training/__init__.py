"""Superpixels, acquisition, losses, pseudo labels and the two-stage trainer of PixBal."""
