"""Unit files and running services: read, judged, written."""
