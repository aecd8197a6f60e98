"""A store and its model behind HTTP: OpenAI's end points, the album's, and the page."""
