"""Photographs whose faces are labeled: WIDER FACE's forms, COCO's, training views."""
