"""Views: what is known of the class of each image before training, made once and kept as stages."""
