"""Models: one family a file, each a denoiser of tokens (`iterref.denoiser`)."""
