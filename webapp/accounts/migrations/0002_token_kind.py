from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="token",
            name="kind",
            field=models.CharField(
                choices=[("secret", "Secret"), ("certificate", "Certificate")],
                default="secret",
                max_length=12,
            ),
        ),
    ]
