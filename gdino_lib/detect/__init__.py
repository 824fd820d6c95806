"""From an image and phrases to labelled boxes."""
