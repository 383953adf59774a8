"""The research programme behind intruders: claims of papers, what studies say of them, and their publication.

Installed beside ``intruders``, it adds verdicts to ``intruders study`` and ``report``, and the commands ``advise``,
``verdicts``, ``forest`` and ``publish``.
"""
