/* libnvidia-ml.so.1 for the launcher's tests. Behaviour comes from the environment:
 *   FAKE_NVML_INIT     what nvmlInit_v2 returns (0: success)
 *   FAKE_NVML_DRIVER   driver version
 *   FAKE_NVML_CARDS    name,major,minor,bytes,mig,fault;...   fault: return code of the card's calls
 *   FAKE_NVML_CLOSED   file that nvmlShutdown creates
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { char name[96]; int major, minor, mig, fault; unsigned long long bytes; } card_t;
typedef struct { unsigned long long total, free, used; } memory_t;

static card_t cards[8];
static unsigned int count;

static const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value ? value : otherwise;
}

int nvmlInit_v2(void) {
    const char *at = setting("FAKE_NVML_CARDS", "");
    for (count = 0; *at && count < 8; count++) {
        card_t *card = &cards[count];
        sscanf(at, "%95[^,],%d,%d,%llu,%d,%d", card->name, &card->major, &card->minor,
               &card->bytes, &card->mig, &card->fault);
        at = strchr(at, ';') ? strchr(at, ';') + 1 : "";
    }
    return atoi(setting("FAKE_NVML_INIT", "0"));
}

int nvmlShutdown(void) {
    FILE *file = fopen(setting("FAKE_NVML_CLOSED", "/dev/null"), "w");
    if (file) fclose(file);
    return 0;
}

int nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    snprintf(version, length, "%s", setting("FAKE_NVML_DRIVER", "580.65.06"));
    return 0;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13000; return 0; }

int nvmlDeviceGetCount_v2(unsigned int *found) { *found = count; return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, card_t **card) {
    *card = &cards[index];
    return cards[index].fault == 15 ? 15 : 0;
}

int nvmlDeviceGetName(card_t *card, char *name, unsigned int length) {
    snprintf(name, length, "%s", card->name);
    return 0;
}

int nvmlDeviceGetCudaComputeCapability(card_t *card, int *major, int *minor) {
    *major = card->major;
    *minor = card->minor;
    return 0;
}

int nvmlDeviceGetMemoryInfo(card_t *card, memory_t *memory) {
    memory->total = memory->free = card->bytes;
    memory->used = 0;
    return card->fault;
}

int nvmlDeviceGetMigMode(card_t *card, unsigned int *current, unsigned int *pending) {
    *current = *pending = (unsigned int)card->mig;
    return card->mig < 0 ? 3 : 0;
}
