"""The book's machinery: run the chapters, record and judge their claims, build the pages."""
