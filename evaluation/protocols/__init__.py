"""From scores to figures: verification, identification, fusion, intervals."""
