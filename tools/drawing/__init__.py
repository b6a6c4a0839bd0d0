"""Drawing of the templates and textures under assets/, and of the README's picture; never imported at run time."""
