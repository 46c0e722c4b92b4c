"""The local web page: an app factory, a JSON API over an atlas, static pages without a build."""
