"""Pages of HTML and SVG: markup that foreign text cannot break, charts, courses of metrics; standard library only."""
