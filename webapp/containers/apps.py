from django.apps import AppConfig


class ContainersConfig(AppConfig):
    name = "webapp.containers"
    label = "containers"
    default_auto_field = "django.db.models.BigAutoField"
