"""Things to show: terminal texts, HTML pages and figures."""
