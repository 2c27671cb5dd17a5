"""Zero-Stage: the look of one edited frame for every frame, by correspondence-masked attention, without training."""
