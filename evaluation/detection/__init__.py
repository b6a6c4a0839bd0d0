"""How well faces are found: WIDER FACE's protocol, COCO's average precision, recall by group, errors of points."""
