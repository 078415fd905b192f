"""The only place that knows nnU-Net's internals. Methods import from here, never the other way round."""
