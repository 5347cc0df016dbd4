"""DBRX and its experts. Knows nothing of data/ and train/.

Legend of the shape suffixes that tensor names carry in this package (x_BTD is x of shape [B, T, D]):

    B  sequences in the microbatch        T  tokens in a sequence
    N  tokens in the microbatch (B * T)   S  slots: token-expert pairs (N * K), sorted by expert
    D  d_model                            V  vocabulary
    H  query heads                        G  key and value heads (groups of query heads)
    C  channels of one head (D / H)       R  rotary pairs of one head (C / 2)
    E  experts                            K  experts chosen for a token
    F  hidden size of one expert          L  layers
    M  domains                            P  ranks that share out the experts
"""
