"""A run as a page that is written anew every so many seconds, and several runs on one page."""
