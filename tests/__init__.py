"""Laws over the registries first, then one file a subject: text in, text or operator types out."""
