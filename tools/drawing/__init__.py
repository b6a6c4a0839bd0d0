"""Drawing of the templates and textures under assets/, for `tools.draw_templates`; never imported at run time."""
