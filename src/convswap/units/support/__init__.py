"""Parts that several units share: folding of BatchNorms, counted random draws, quick depthwise convolutions."""
