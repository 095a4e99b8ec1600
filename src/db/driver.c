/*
** driver: which driver a database URL asks for.
*/
#include "driver.h"

#include "url.h"

const struct driver *driver_for(const char *url, struct pool_error *error) {
  char scheme[40];
  switch (url_scheme(url)) {
  case URL_POSTGRES: return &postgres_driver;
  case URL_SQLITE: return &sqlite_driver;
  default: break;
  }
  url_scheme_name(url, scheme, sizeof scheme);
  if (scheme[0] != '\0')
    error_set(error, POOL_SETTINGS, "database_url: no driver for %s:// is known; known are postgresql:// and sqlite:///", scheme);
  else
    error_set(error, POOL_SETTINGS, "database_url: it must begin with postgresql:// or sqlite:///");
  if (error != NULL) error->permanent = true;
  return NULL;
}
