"""Drawing of the templates and textures under assets/, for `transforms.draw_templates`; never imported at run time."""
