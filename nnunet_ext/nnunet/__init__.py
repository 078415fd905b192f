"""The package that knows nnU-Net's internals. Methods and landmarks import from here, never the other way round."""
