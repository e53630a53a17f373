/* nkey.h: the keys of NATS users: Ed25519 (by libcrypto), written in base32 with a checksum.
 *
 * A seed ("SU…", 58 letters) is the secret and stays with its owner; the public key ("U…", 56 letters) is all that a server
 * has. Whoever connects signs the server's nonce. Only users' keys are known here: those of accounts and operators sign other people's rights and
 * belong to nsc. Source: github.com/nats-io/nkeys, README and xkeys; the checksum is CRC-16/XMODEM, little-endian. */
#ifndef LSV_BASE_NKEY_H
#define LSV_BASE_NKEY_H

#include <stdbool.h>
#include <stddef.h>

enum {
        NKEY_PUBLIC_SIZE = 56 + 1,
        NKEY_SEED_SIZE = 58 + 1,
        NKEY_SIGNATURE_SIZE = 64,
};

/* A new pair. 0 or -errno. */
int nkey_generate(char ret_seed[NKEY_SEED_SIZE], char ret_public[NKEY_PUBLIC_SIZE]);
/* The public key of a seed: 0; -EINVAL: no seed of a user, or mistyped (the checksum); -EIO: libcrypto refuses. */
int nkey_public(const char *seed, char ret_public[NKEY_PUBLIC_SIZE]);
/* 0, -EINVAL, -EIO as above. */
int nkey_sign(const char *seed, const void *data, size_t len, unsigned char ret[NKEY_SIGNATURE_SIZE]);
/* A public key of a user, its checksum included. */
bool nkey_is_public(const char *text);
/* The seed in the text of a file: the first word that is one, so a file of `nk`, one of ours, and a credentials file all do.
 * 0 or -ENOENT. */
int nkey_find_seed(const char *text, size_t len, char ret_seed[NKEY_SEED_SIZE]);

#endif
