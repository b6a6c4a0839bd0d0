"""What the occlusion head finds on photographs behind drawn occluders."""
